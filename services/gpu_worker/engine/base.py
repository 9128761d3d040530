"""Loads a recipe's base, fuses its distillation once and freezes it. Knows nothing about adapters or jobs."""

from __future__ import annotations

import copy
import inspect
import itertools
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from looksmith.lora import LoraError, ModuleTable, read_modules
from services.gpu_worker.engine.adapters import path_in
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.pipelines import Pipeline, PipelineRefused, open_pipeline
from services.gpu_worker.engine.recipe import COMPONENTS, Recipe

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,  # for comparing engines: differences are then mistakes, not rounding
}


def load_base(recipe: Recipe, device: torch.device) -> Pipeline:
    """The base in the recipe's dtype, its distillation fused in: what every adapter then runs on.

    Raises:
        RecipeError: the base or its distillation can't be used; the message says why.
    """
    # diffusers warns of a truncated prompt with the prompt's words, which must not enter logs.
    diffusers_logging.set_verbosity_error()
    # transformers reports earlier adapters as missing from each new one's file.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # of transformers
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers
    dtype = DTYPES[recipe.dtype]
    try:
        pipe = open_pipeline(recipe.base.path, family=recipe.family, dtype=dtype, config=recipe.base.config)
    except PipelineRefused as refused:
        raise recipe.mistake("base.source", str(refused)) from None
    pipe.set_progress_bar_config(disable=True)
    if recipe.distill:
        if recipe.distill.kind == "unet":
            _replace_unet(pipe, recipe, recipe.distill.path)
        else:
            _fuse(pipe, recipe, recipe.distill.path, recipe.distill.scale)
    pipe.to(device)
    if isinstance(pipe, StableDiffusionXLPipeline) and dtype is torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.to(torch.float32)  # as the pipeline does for each picture: in float16 it would paint black
    for model in models_of(pipe).values():
        model.requires_grad_(requires_grad=False).eval()
    return pipe


def models_of(pipe: Pipeline) -> dict[str, nn.Module]:
    """A pipeline's models by their names."""
    return {name: model for name in COMPONENTS if isinstance(model := getattr(pipe, name, None), nn.Module)}


def _replace_unet(pipe: Pipeline, recipe: Recipe, file: Path) -> None:
    """Puts the weights of a distilled UNet in the place of the base's; every one of them must come, and no other."""
    own = {name: tuple(tensor.shape) for name, tensor in pipe.unet.state_dict().items()}
    with _opened(recipe, file) as given:
        theirs = {name: tuple(given.get_slice(name).get_shape()) for name in given.keys()}  # noqa: SIM118  # no dict
        if theirs != own:
            odd = min(own.items() ^ theirs.items())[0]
            which = "lacks" if odd not in theirs else "has the unknown" if odd not in own else "has another shape of"
            raise recipe.mistake("distill.source", f"is no UNet of this base: {file.name} {which} {odd}")
        for name, parameter in pipe.unet.state_dict().items():
            parameter.copy_(given.get_tensor(name))


@torch.no_grad()
def _fuse(pipe: Pipeline, recipe: Recipe, file: Path, scale: float) -> None:
    """Adds a LoRA to the weights: W += scale * alpha / rank * B A, in float32 at least, rounded once.

    Read as strictly as a brand's adapter: each of its tensors is used, or it is refused.
    """
    table = table_of(models_of(pipe), family=recipe.family, digest="")
    with _opened(recipe, file) as given:
        for module in _modules(recipe, file, table):
            model = getattr(pipe, module.component)
            weight = model.get_submodule(path_in(model, module.path)).weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            down, up = (given.get_tensor(half).to(wide).flatten(1) for half in (module.down, module.up))
            change = (up @ down).view(weight.shape)
            weight.copy_(weight.to(wide).add_(change, alpha=scale * module.scale))


def _modules(recipe: Recipe, file: Path, table: ModuleTable) -> Any:  # noqa: ANN401
    try:
        return read_modules(file, table)
    except LoraError as error:
        raise recipe.mistake("distill.source", f"is no LoRA for this base: {file.name}: {error}") from None


def _opened(recipe: Recipe, file: Path) -> Any:  # noqa: ANN401  # safetensors has no types
    try:
        return safe_open(file, framework="pt")
    except Exception as error:  # noqa: BLE001  # safetensors raises its own for whatever is no such file
        raise recipe.mistake("distill.source", f"can't be read as safetensors: {file}: {error}") from None


def shared_copy(model: nn.Module) -> nn.Module:
    """A model of the same structure on the same weights, storage and all, whose layers can be replaced."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def new_scheduler(recipe: Recipe, steps: int, device: torch.device | None = None) -> Any:  # noqa: ANN401  # diffusers' schedulers share no typed base
    """The recipe's sampler, set to a number of steps, with no picture begun: some keep state between steps.

    Raises:
        RecipeError: diffusers has no such sampler, or it takes no such arguments.
    """
    sampler = recipe.sampler
    kind = getattr(diffusers, sampler.name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise recipe.mistake("sampler.class", f"is no scheduler of diffusers: {sampler.name!r}")
    try:
        scheduler = kind(**sampler.config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise recipe.mistake("sampler.config", f"does not fit {sampler.name}: {error}") from None
    if steps not in sampler.timesteps:
        scheduler.set_timesteps(steps, device=device)
        return scheduler
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise recipe.mistake("sampler.timesteps", f"can't be given to {sampler.name}, which chooses its own")
    try:
        scheduler.set_timesteps(timesteps=list(sampler.timesteps[steps]), device=device)
    except ValueError as error:
        raise recipe.mistake(f"sampler.timesteps.{steps}", f"does not suit {sampler.name}: {error}") from None
    return scheduler
