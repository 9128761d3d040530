"""What a recipe file says: base, distillation, sampler, steps and sizes, checked key by key, with its digest.

Reads TOML and hashes weight files; knows nothing about torch or how a recipe is painted.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looksmith.lora.tables import FAMILY
from looksmith.nouns import Malformed, check_name
from services.chassis.painting import RecipeFacts
from services.chassis.process import CannotStart

DTYPES = ("float32", "float16", "bfloat16", "float64")
_MAX_STEPS = 1000


class RecipeError(CannotStart):
    """A recipe can't be used; the message names the file and the key."""

    def __init__(self, file: Path, key: str, problem: str) -> None:
        super().__init__(f"{file}: {key} {problem}")


@dataclass(frozen=True)
class Distillation:
    """A LoRA that is fused into the base once, at load."""

    source: Path  # a safetensors file
    scale: float


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler by name, with the arguments of its constructor and the eta of its steps."""

    name: str
    eta: float  # given to samplers whose step takes one, as diffusers' pipelines do
    config: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Recipe:
    file: Path
    name: str
    base: Path  # a diffusers folder
    family: str
    distill: Distillation | None
    sampler: Sampler
    sizes: tuple[tuple[int, int], ...]  # (width, height); the first is the default
    steps: tuple[int, ...]
    default_steps: int
    default_guidance: float
    max_guidance: float
    strict_base: bool
    dtype: str

    def facts(self, *, base_digest: str, distill_digest: str) -> RecipeFacts:
        """What routers must know; the digest changes with anything that changes a picture, weights included."""
        content = {
            "name": self.name,
            "family": self.family,
            "distill_scale": self.distill.scale if self.distill else None,
            "sampler": {"class": self.sampler.name, "eta": self.sampler.eta, "config": dict(self.sampler.config)},
            "sizes": self.sizes,
            "steps": self.steps,
            "default_steps": self.default_steps,
            "guidance": [self.default_guidance, self.max_guidance],
            "strict_base": self.strict_base,
            "dtype": self.dtype,
            "base_digest": base_digest,
            "distill_digest": distill_digest,
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return RecipeFacts(
            name=self.name,
            digest=hashlib.sha256(canonical.encode()).hexdigest(),
            family=self.family,
            base_digest=base_digest,
            sizes=self.sizes,
            steps=self.steps,
            default_steps=self.default_steps,
            default_guidance=self.default_guidance,
            max_guidance=self.max_guidance,
            strict_base=self.strict_base,
        )

    def weighed(self) -> RecipeFacts:
        """As ``facts``, with the digests of the weights that lie on this disk.

        Raises:
            RecipeError: weights are missing.
        """
        distill_digest = ""
        if self.distill:
            if not self.distill.source.is_file():
                raise RecipeError(self.file, "distill.source", f"names no file: {self.distill.source}")
            distill_digest = file_digest(self.distill.source)
        try:
            return self.facts(base_digest=base_digest(self.base), distill_digest=distill_digest)
        except FileNotFoundError as error:
            raise RecipeError(self.file, "base.source", str(error)) from None


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def base_digest(folder: Path) -> str:
    """Identity of a base: SHA-256 over the sorted (name, SHA-256) of its weight files, configs left out.

    Raises:
        FileNotFoundError: the folder holds no safetensors file.
    """
    weights = sorted((str(file.relative_to(folder).as_posix()), file) for file in folder.rglob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"names no folder with safetensors files: {folder}")
    lines = "".join(f"{name}\0{file_digest(file)}\n" for name, file in weights)
    return hashlib.sha256(lines.encode()).hexdigest()


def read_recipe(file: Path) -> Recipe:
    """Reads a recipe; ``source`` paths in it are relative to its own folder.

    Raises:
        RecipeError: the file is missing, no TOML, or has a bad, missing or unknown key.
    """
    try:
        root = _Keys(file, "", tomllib.loads(file.read_text("utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(file, "the file", f"can't be read: {error}") from None
    base, sampler, guidance = root.table("base"), root.table("sampler"), root.table("guidance", optional=True)
    distill = root.table("distill") if "distill" in root.values else None
    recipe = Recipe(
        file=file,
        name=root.name("name"),
        base=file.parent / base.text("source"),
        family=base.text("family"),
        distill=Distillation((file.parent / distill.text("source")).resolve(), distill.number("scale", 1.0))
        if distill
        else None,
        sampler=Sampler(
            sampler.text("class"), sampler.number("eta", 0.0), sampler.table("config", optional=True).values
        ),
        sizes=root.sizes("sizes"),
        steps=tuple(sorted(root.whole_numbers("steps", most=_MAX_STEPS))),
        default_steps=root.whole_number("default_steps"),
        default_guidance=guidance.number("default", 0.0),
        max_guidance=guidance.number("max", 0.0),
        strict_base=root.flag("strict_base"),
        dtype=root.text("dtype", "float32"),
    )
    for table in (root, base, sampler, guidance, *([distill] if distill else [])):
        table.refuse_unread()
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    if not FAMILY.fullmatch(recipe.family):
        raise RecipeError(recipe.file, "base.family", f"must be a family such as sd15, not {recipe.family!r}")
    if recipe.default_steps not in recipe.steps:
        raise RecipeError(recipe.file, "default_steps", f"must be one of steps, not {recipe.default_steps}")
    if recipe.dtype not in DTYPES:
        raise RecipeError(recipe.file, "dtype", f"must be one of {', '.join(DTYPES)}, not {recipe.dtype!r}")
    if not 0 <= recipe.default_guidance <= recipe.max_guidance:
        raise RecipeError(recipe.file, "guidance.default", f"must be from 0 to {recipe.max_guidance:g} (guidance.max)")


class _Keys:
    """One table of a recipe, read key by key, so that every complaint names its key."""

    def __init__(self, file: Path, path: str, values: dict[str, Any]) -> None:
        self.values = values
        self._file, self._path, self._read = file, path, set[str]()

    def refuse_unread(self) -> None:
        if unknown := sorted(self.values.keys() - self._read):
            raise self._error(unknown[0], "is not a key of a recipe")

    def table(self, key: str, *, optional: bool = False) -> _Keys:
        value = self._get(key, {} if optional else None)
        if not isinstance(value, dict):
            raise self._error(key, "must be a table")
        return _Keys(self._file, f"{self._path}{key}.", value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str) or not value:
            raise self._error(key, f"must be text, not {value!r}")
        return value

    def name(self, key: str) -> str:
        try:
            return check_name(key, self.text(key))
        except Malformed as error:
            raise self._error(key, error.description) from None

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(key, f"must be a number, not {value!r}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, default=False)
        if not isinstance(value, bool):
            raise self._error(key, f"must be true or false, not {value!r}")
        return value

    def whole_number(self, key: str) -> int:
        (value,) = self._whole(key, [self._get(key)], most=_MAX_STEPS)
        return value

    def whole_numbers(self, key: str, *, most: int) -> tuple[int, ...]:
        return self._whole(key, self._get(key), most=most)

    def sizes(self, key: str) -> tuple[tuple[int, int], ...]:
        rows = self._get(key)
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise self._error(key, f"must be a list of [width, height], not {rows!r}")
        pairs = [self._whole(key, row, most=8192) for row in rows]
        if odd := [pair for pair in pairs if pair[0] % 8 or pair[1] % 8]:
            raise self._error(key, f"must be multiples of 8, not {list(odd[0])}")
        return tuple((width, height) for width, height in pairs)

    def _whole(self, key: str, values: object, *, most: int) -> tuple[int, ...]:
        if not isinstance(values, list) or not values or not all(type(v) is int and 1 <= v <= most for v in values):
            raise self._error(key, f"must be whole numbers from 1 to {most}, not {values!r}")
        return tuple(values)

    def _get(self, key: str, default: object = None) -> object:
        self._read.add(key)
        value = self.values.get(key, default)
        if value is None:
            raise self._error(key, "is missing")
        return value

    def _error(self, key: str, problem: str) -> RecipeError:
        return RecipeError(self._file, f"{self._path}{key}", problem)
