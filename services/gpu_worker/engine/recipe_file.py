"""Reads a recipe file: TOML, checked key by key, so that all its mistakes are told at once, each with its line.

Asks ``Sources`` where weights lie; opens none of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looksmith.lora.tables import FAMILY
from looksmith.nouns import Malformed, check_name
from services.gpu_worker.engine.recipe import (
    DTYPES,
    PUBLIC_FAMILIES,
    Base,
    Distillation,
    Mistake,
    Recipe,
    RecipeError,
    Sampler,
)
from services.gpu_worker.engine.sources import SourceMissing, Sources

_MAX_STEPS = 1000
_MAX_CLIP_SKIP = 11  # CLIP ViT-L, the smaller text encoder, has 12 layers
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TABLE = re.compile(r"""\s*\[([\w.\s"'-]+)\]""")
_KEY = re.compile(r"""\s*([\w.\s"'-]+)=""")
_NOT_NAMES = re.compile(r"""[\s"']""")


def read_recipe(file: Path, sources: Sources | None = None) -> Recipe:
    """Reads a recipe; paths in it are relative to its own folder.

    Args:
        file: TOML, as docs/recipes.md describes it.
        sources: finds weights; None: no base of the object store.

    Raises:
        RecipeError: the file is missing, no TOML, or has bad, missing or unknown keys; or a source is not there.
    """
    try:
        text = file.read_text("utf-8")
        values = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # tomllib lets those of int() and of deep lists through
        raise RecipeError(file, Mistake("the file", f"can't be read: {error}")) from None
    if _has_huge_numbers(values):
        raise RecipeError(file, Mistake("the file", "holds a whole number of more than 64 bits, which TOML has not"))
    mistakes: list[Mistake] = []
    lines = lines_of(text)
    root = _Keys(values, lines, mistakes)
    recipe = _recipe(file, root, sources or Sources())
    if mistakes:
        raise RecipeError(file, *sorted(mistakes, key=lambda mistake: mistake.line))
    return recipe


def _has_huge_numbers(value: object) -> bool:
    match value:
        case dict():
            return any(map(_has_huge_numbers, value.values()))
        case list():
            return any(map(_has_huge_numbers, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def lines_of(text: str) -> dict[str, int]:
    """The line that each table and key of a TOML file begins in, by its dotted name. Of a file that reads well."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE.match(line):
            table = _NOT_NAMES.sub("", match[1])
            lines[table] = number
        elif match := _KEY.match(line):
            name = _NOT_NAMES.sub("", match[1])
            lines.setdefault(f"{table}.{name}" if table else name, number)
    return lines


def _recipe(file: Path, root: _Keys, sources: Sources) -> Recipe:
    base, sampler, guidance = root.table("base"), root.table("sampler"), root.table("guidance", optional=True)
    distill = root.table("distill") if "distill" in root.values else None
    folder = file.parent
    recipe = Recipe(
        file=file,
        name=root.name("name"),
        base=Base(
            path=base.source("source", folder, sources),
            family=base.text("family"),
            config=base.source("config", folder, sources) if "config" in base.values else None,
            sha256=base.sha256("sha256"),
            safety_checker=base.source("safety_checker", folder, sources) if "safety_checker" in base.values else None,
        ),
        distill=Distillation(
            path=distill.source("source", folder, sources),
            kind="unet" if distill.choice("kind", ("lora", "unet"), default="lora") == "unet" else "lora",
            scale=distill.number("scale", 1.0),
            sha256=distill.sha256("sha256"),
        )
        if distill
        else None,
        sampler=Sampler(
            name=sampler.text("class"),
            eta=sampler.number("eta", 0.0),
            config=sampler.table("config", optional=True).values,
            timesteps=sampler.table("timesteps", optional=True).timesteps(),
        ),
        sizes=root.sizes("sizes"),
        steps=tuple(sorted(root.whole_numbers("steps", most=_MAX_STEPS))),
        default_steps=root.whole_number("default_steps", most=_MAX_STEPS),
        default_guidance=guidance.number("default", 0.0),
        max_guidance=guidance.number("max", 0.0),
        strict_base=root.flag("strict_base"),
        dtype=root.choice("dtype", DTYPES, default="float32"),
        clip_skip=root.whole_number("clip_skip", least=0, most=_MAX_CLIP_SKIP, default=0),
        safety=root.choice("safety", ("checker", "off"), default="") == "checker",
        licence=root.text("licence", ""),
        lines=root.lines,
    )
    for table in (root, base, sampler, guidance, *([distill] if distill else [])):
        table.refuse_unread()
    _check(recipe, root)
    return recipe


def _check(recipe: Recipe, root: _Keys) -> None:
    """What keys say together."""
    if recipe.family and not FAMILY.fullmatch(recipe.family):
        root.wrong("base.family", f"must be a family such as sd15, not {recipe.family!r}")
    if recipe.steps and recipe.default_steps not in recipe.steps:
        root.wrong("default_steps", f"must be one of steps, not {recipe.default_steps}")
    if not 0 <= recipe.default_guidance <= recipe.max_guidance:
        root.wrong("guidance.default", f"must be from 0 to {recipe.max_guidance:g} (guidance.max)")
    if recipe.family in PUBLIC_FAMILIES and "safety" not in root.values:
        root.wrong(
            "safety",
            f'is missing: with a base of {recipe.family}, say safety = "checker" or safety = "off", knowingly',
        )
    if recipe.distill and recipe.distill.kind == "unet" and recipe.distill.scale != 1:
        root.wrong("distill.scale", "is of a LoRA; a distilled UNet takes the base's place whole")
    for steps, given in recipe.sampler.timesteps.items():
        key = f"sampler.timesteps.{steps}"
        if steps not in recipe.steps:
            root.wrong(key, f"is for {steps} steps, which are not among steps")
        if len(given) != steps or list(given) != sorted(set(given), reverse=True):
            root.wrong(key, f"must hold {steps} timesteps, falling, not {list(given)}")


class _Keys:
    """One table of a recipe, read key by key. What is wrong is noted, and something harmless given instead."""

    def __init__(
        self, values: dict[str, Any], lines: Mapping[str, int], mistakes: list[Mistake], path: str = ""
    ) -> None:
        self.values, self.lines = values, lines
        self._mistakes, self._path, self._read = mistakes, path, set[str]()

    def wrong(self, key: str, problem: str) -> None:
        name = f"{self._path}{key}"
        at = name
        while at and at not in self.lines:  # a key that is missing belongs to its table's line
            at = at.rpartition(".")[0]
        self._mistakes.append(Mistake(name, problem, self.lines.get(at, 0)))

    def refuse_unread(self) -> None:
        for key in sorted(self.values.keys() - self._read):
            self.wrong(key, "is not a key of a recipe")

    def table(self, key: str, *, optional: bool = False) -> _Keys:
        value = self._get(key, {} if optional else None)
        if value is not None and not isinstance(value, dict):
            self.wrong(key, "must be a table")
        if not isinstance(value, dict):
            return _Silent(self.lines)
        return _Keys(value, self.lines, self._mistakes, f"{self._path}{key}.")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if value is None or value == default:
            return default or ""
        if not isinstance(value, str) or not value:
            self.wrong(key, f"must be text, not {value!r}")
            return ""
        return value

    def choice(self, key: str, choices: tuple[str, ...], *, default: str) -> str:
        value = self.text(key, default)
        if value and value not in choices:
            self.wrong(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def name(self, key: str) -> str:
        value = self.text(key)
        try:
            return check_name(key, value) if value else ""
        except Malformed as error:
            self.wrong(key, error.description)
            return ""

    def sha256(self, key: str) -> str:
        value = self.text(key, "")
        if value and not _SHA256.fullmatch(value):
            self.wrong(key, f"must be 64 hexadecimal digits in lower case, not {value!r}")
        return value

    def source(self, key: str, folder: Path, sources: Sources) -> Path:
        value = self.text(key)
        if not value:
            return folder
        try:
            return sources.find(value, folder)
        except SourceMissing as error:
            self.wrong(key, str(error))
            return folder

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, f"must be a number, not {value!r}")
            return default
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, default=False)
        if not isinstance(value, bool):
            self.wrong(key, f"must be true or false, not {value!r}")
        return value is True

    def whole_number(self, key: str, *, most: int, least: int = 1, default: int | None = None) -> int:
        value = self._get(key, default)
        return next(iter(self._whole(key, [value], least=least, most=most)), 0) if value is not None else 0

    def whole_numbers(self, key: str, *, most: int) -> tuple[int, ...]:
        value = self._get(key)
        return self._whole(key, value, least=1, most=most) if value is not None else ()

    def sizes(self, key: str) -> tuple[tuple[int, int], ...]:
        rows = self._get(key)
        if rows is None:
            return ()
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and len(row) == 2 for row in rows):
            self.wrong(key, f"must be a list of [width, height], not {rows!r}")
            return ()
        pairs = [pair for row in rows if (pair := self._whole(key, row, least=1, most=8192))]
        if odd := [pair for pair in pairs if pair[0] % 8 or pair[1] % 8]:
            self.wrong(key, f"must be multiples of 8, not {list(odd[0])}")
        return tuple((width, height) for width, height in pairs)

    def timesteps(self) -> dict[int, tuple[int, ...]]:
        """This table's own: lists of timesteps by the number of steps."""
        given = {}
        for key in self.values:
            if not (key.isascii() and key.isdecimal() and len(key) < 5):
                self.wrong(key, "must be a number of steps")
                continue
            given[int(key)] = self._whole(key, self._get(key), least=0, most=_MAX_STEPS - 1)
        return given

    def _whole(self, key: str, values: object, *, least: int, most: int) -> tuple[int, ...]:
        if not isinstance(values, list) or not values or not all(type(v) is int and least <= v <= most for v in values):
            shown = values[0] if isinstance(values, list) and len(values) == 1 else values
            self.wrong(key, f"must be whole numbers from {least} to {most}, not {shown!r}")
            return ()
        return tuple(values)

    def _get(self, key: str, default: object = None) -> object:
        self._read.add(key)
        value = self.values.get(key, default)
        if value is None:
            self.wrong(key, "is missing")
        return value


class _Silent(_Keys):
    """Stands for a table that is missing, which has been noted: what is not in it is no further mistake."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        super().__init__({}, lines, [])
