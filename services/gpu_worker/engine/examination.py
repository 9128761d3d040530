"""Finds all that keeps recipes from being served, by the headers and configs of their weights, and loads none of them.

Reading a recipe's own file is recipe_file.py's; what its weights take on a device is ledger.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import transformers
from accelerate import init_empty_weights  # type: ignore[import-untyped]  # of accelerate
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

from looksmith.lora import ModuleTable
from services.gpu_worker.engine.bank_engine import sampler_tables
from services.gpu_worker.engine.base import check_base, check_distillation
from services.gpu_worker.engine.base_weights import BAD_CONFIG, PipelineRefused, stored_in
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.pipelines import FoundPipeline
from services.gpu_worker.engine.recipe import Mistake, Recipe, RecipeError
from services.gpu_worker.engine.sampler_table import SamplerTable


@dataclass(frozen=True)
class FoundBase:
    """A base whose files belong together."""

    pipeline: FoundPipeline = field(repr=False)
    table: ModuleTable = field(repr=False)  # of its layers, whatever their weights

    @property
    def parameters(self) -> dict[str, int]:
        """How many weights each of its models has."""
        return {
            name: sum(tensor.numel() for tensor in model.state_dict().values())
            for name, model in self.pipeline.models.items()
        }


@dataclass(frozen=True)
class Checker:
    """A safety checker on disk."""

    folder: Path
    parameters: int


@dataclass(frozen=True)
class Examined:
    """A recipe with what was found of it, and all that is wrong."""

    recipe: Recipe
    mistakes: tuple[Mistake, ...] = ()  # in the order of their lines
    base: FoundBase | None = None  # None: it can't be opened, which is among the mistakes
    fused_layers: int = 0  # of the base, that a distillation LoRA changes
    tables: Mapping[int, SamplerTable] = field(default_factory=dict, repr=False)  # by the number of steps
    checker: Checker | None = None  # None: it wants none, or that can't be used

    def refuse(self) -> None:
        """Raises: RecipeError, which tells all mistakes, if there are any."""
        if self.mistakes:
            raise RecipeError(self.recipe.file, *self.mistakes)


def examine(recipes: Sequence[Recipe], *, batched: bool = True) -> list[Examined]:
    """Examines recipes that one worker is to serve.

    Args:
        recipes: as their files were read.
        batched: whether their samplers must be able to share a batch, and their bases a bank.
    """
    bases: dict[object, FoundBase] = {}
    made: list[Examined] = []
    for recipe in recipes:
        examined = _examined(recipe, bases, batched=batched)
        beside: list[Mistake] = []
        with _noting(beside):
            _check_name(recipe, made)
        with _noting(beside):
            if batched:
                _check_bank(examined, made)
        made.append(replace(examined, mistakes=_sorted([*examined.mistakes, *beside])))
    return made


def _examined(recipe: Recipe, bases: dict[object, FoundBase], *, batched: bool) -> Examined:
    """``bases``: found before, to which its own is added."""
    mistakes: list[Mistake] = []
    base, layers, checker = None, 0, None
    tables: Mapping[int, SamplerTable] = {}
    with _noting(mistakes):
        key = (recipe.base.path, recipe.base.config, recipe.family)
        if key not in bases:
            pipeline = check_base(recipe)
            bases[key] = FoundBase(pipeline, table_of(pipeline.models, family=recipe.family, digest=""))
        base = bases[key]
        layers = len(check_distillation(recipe, base.pipeline.models))
    with _noting(mistakes):
        tables = _tables(recipe) if batched else {}
    with _noting(mistakes):
        checker = _checker(recipe) if recipe.safety else None
    return Examined(recipe, _sorted(mistakes), base, layers, tables, checker)


@contextmanager
def _noting(mistakes: list[Mistake]) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        mistakes += error.mistakes


def _sorted(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    return tuple(sorted(mistakes, key=lambda mistake: mistake.line))


def _tables(recipe: Recipe) -> Mapping[int, SamplerTable]:
    try:
        return sampler_tables(recipe)
    except ValueError as error:  # samplers say so themselves where they can't take that many steps
        raise recipe.mistake("steps", f"do not suit {recipe.sampler.name}: {error}") from None


def _checker(recipe: Recipe) -> Checker:
    folder = recipe.base.safety_checker or recipe.base.path / "safety_checker"
    if not folder.is_dir():
        raise recipe.mistake(
            "safety", f"asks for a checker, and {folder} is no folder; name one in base.safety_checker"
        )
    try:
        config = transformers.CLIPConfig.from_pretrained(folder, local_files_only=True)
        with init_empty_weights():
            wanted = StableDiffusionSafetyChecker(config).state_dict()
        stored = stored_in(folder / "model.safetensors", place=folder)
    except (OSError, PipelineRefused, *BAD_CONFIG) as error:
        raise recipe.mistake("safety", f"asks for a checker that can't be loaded: {error}") from None
    # Which version of transformers saved it shows in how often its names repeat this
    present = {name.replace("vision_model.", "") for name in stored.tensors}
    if missing := {name for name in wanted if name.replace("vision_model.", "") not in present}:
        raise recipe.mistake("safety", f"asks for a checker, and {folder} lacks its weights {min(missing)}")
    return Checker(folder, sum(tensor.numel() for tensor in wanted.values()))


def _check_name(recipe: Recipe, others: Sequence[Examined]) -> None:
    for other in others:
        if other.recipe.name == recipe.name:
            raise recipe.mistake(
                "name", f"is that of {other.recipe.file} too, so that no request could tell them apart"
            )


def _check_bank(examined: Examined, others: Sequence[Examined]) -> None:
    """Bases of one family share a bank, which has one dtype and a place for each layer."""
    recipe, base = examined.recipe, examined.base
    for other in others:
        if base is None or other.base is None or other.recipe.family != recipe.family:
            continue
        if other.base.table.components != base.table.components or other.recipe.dtype != recipe.dtype:
            raise recipe.mistake(
                "base",
                f"shares the bank of {recipe.family} with that of {other.recipe.file}, which has other layers or "
                "another dtype; serve one of the two from another worker",
            )
