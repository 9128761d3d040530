"""A recipe: base, distillation, sampler, steps and sizes, and the digest of all that changes a picture.

Holds what recipe_file.py has read; knows nothing about TOML, torch or how a recipe is painted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from services.chassis.painting import RecipeFacts
from services.chassis.process import CannotStart

DTYPES = ("float32", "float16", "bfloat16", "float64")
#: Families of which weights of the public kind exist, so that a recipe must say what becomes of unsafe pictures.
PUBLIC_FAMILIES = ("sd15", "sd2", "sdxl")
#: The models of a base; whatever else its folder holds is not painted with.
COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")


@dataclass(frozen=True)
class Mistake:
    """What is wrong with one key of a recipe file; line 0: it is in no line."""

    key: str
    problem: str
    line: int = 0


class RecipeError(CannotStart):
    """A recipe can't be used; the message names the file and each key, a line for each mistake."""

    def __init__(self, file: Path, *mistakes: Mistake) -> None:
        self.file, self.mistakes = file, mistakes
        places = (f"{file}:{mistake.line}" if mistake.line else f"{file}" for mistake in mistakes)
        super().__init__("\n".join(f"{at}: {m.key} {m.problem}" for at, m in zip(places, mistakes, strict=True)))


@dataclass(frozen=True)
class Base:
    """The frozen model: a diffusers folder, or one safetensors file in the layout of its makers."""

    path: Path
    family: str
    config: Path | None = None  # a diffusers folder whose configs describe a single file; None: those of the family
    sha256: str = ""  # what its digest must be; empty: whatever it is
    safety_checker: Path | None = None  # a folder with Stable Diffusion's safety checker


@dataclass(frozen=True)
class Distillation:
    """Fused into the base once, at load: a LoRA, or a whole UNet that takes the place of the base's."""

    path: Path  # a safetensors file
    kind: Literal["lora", "unet"] = "lora"
    scale: float = 1.0  # of a LoRA
    sha256: str = ""  # what the file's must be; empty: whatever it is


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler by name, with the arguments of its constructor and the eta of its steps."""

    name: str
    eta: float  # given to samplers whose step takes one, as diffusers' pipelines do
    config: Mapping[str, Any] = field(hash=False)
    timesteps: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)  # by the number of steps


@dataclass(frozen=True)
class Recipe:
    file: Path
    name: str
    base: Base
    distill: Distillation | None
    sampler: Sampler
    sizes: tuple[tuple[int, int], ...]  # (width, height); the first is the default
    steps: tuple[int, ...]
    default_steps: int
    default_guidance: float
    max_guidance: float
    strict_base: bool
    dtype: str
    clip_skip: int = 0  # of the text encoder's last layers, left out
    safety: bool = False  # whether a safety checker looks at each picture
    licence: str = ""  # a note to whoever serves it
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # of the file, by key

    @property
    def family(self) -> str:
        return self.base.family

    @property
    def weights(self) -> tuple[object, ...]:
        """Recipes that are alike in this are painted with the same loaded base."""
        distill = self.distill and (self.distill.path, self.distill.kind, self.distill.scale)
        return (self.base.path, self.base.config, self.family, distill, self.dtype)

    def mistake(self, key: str, problem: str) -> RecipeError:
        """That a key of it, which reads well, can't be met."""
        return RecipeError(self.file, Mistake(key, problem, self.lines.get(key, 0)))

    def facts(self, *, base_digest: str, distill_digest: str) -> RecipeFacts:
        """What routers must know; the digest changes with anything that changes a picture, weights included."""
        content = {
            "name": self.name,
            "family": self.family,
            "distill_kind": self.distill.kind if self.distill else None,
            "distill_scale": self.distill.scale if self.distill else None,
            "sampler": {
                "class": self.sampler.name,
                "eta": self.sampler.eta,
                "config": dict(self.sampler.config),
                "timesteps": dict(self.sampler.timesteps),
            },
            "sizes": self.sizes,
            "steps": self.steps,
            "default_steps": self.default_steps,
            "guidance": [self.default_guidance, self.max_guidance],
            "strict_base": self.strict_base,
            "dtype": self.dtype,
            "clip_skip": self.clip_skip,
            "safety": self.safety,
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
            RecipeError: weights are missing, or are not those that the recipe names.
        """
        base, distill = self.digests()
        for key, wanted, found in (
            ("base.sha256", self.base.sha256, base),
            ("distill.sha256", self.distill.sha256 if self.distill else "", distill),
        ):
            if wanted and wanted != found:
                raise self.mistake(key, f"is {wanted}, but the weights' is {found}: another version, or a broken copy")
        return self.facts(base_digest=base, distill_digest=distill)

    def digests(self) -> tuple[str, str]:
        """Of the base and of its distillation; empty: none.

        Raises:
            RecipeError: weights are missing.
        """
        if self.distill and not self.distill.path.is_file():
            raise self.mistake("distill.source", f"names no file: {self.distill.path}")
        try:
            return base_digest(self.base.path), file_digest(self.distill.path) if self.distill else ""
        except FileNotFoundError as error:
            raise self.mistake("base.source", str(error)) from None


def file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(base: Path) -> list[Path]:
    """The safetensors files that a base consists of: one, or those of a diffusers folder's models.

    Of a model that a folder holds in several precisions, as published ones do, the one without a mark is meant.

    Raises:
        FileNotFoundError: there are none.
    """
    if base.is_file():
        return [base]
    files: list[Path] = []
    for component in COMPONENTS:
        found = sorted((base / component).glob("*.safetensors"))
        files += [file for file in found if "." not in file.stem] or found  # as in model.fp16.safetensors
    if not files:
        raise FileNotFoundError(f"names no folder with safetensors files: {base}")
    return files


def base_digest(base: Path) -> str:
    """Identity of a base: SHA-256 over the sorted (name, SHA-256) of its weight files, configs left out.

    That of a single file is the file's own.

    Raises:
        FileNotFoundError: there are no weights.
    """
    files = weight_files(base)
    if base.is_file():
        return file_digest(base)
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        digests = pool.map(file_digest, files)
        lines = sorted((file.relative_to(base).as_posix(), digest) for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in lines).encode()).hexdigest()
