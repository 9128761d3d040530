"""Loads a recipe's base, fuses its distillation once and freezes it. Knows nothing about adapters or jobs."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from looksmith.lora import LoraError, LoraModule, read_modules
from services.gpu_worker.engine.adapters import path_in
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.pipelines import FoundPipeline, Pipeline, PipelineRefused, check_pipeline
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
    # 1. Refuse by the headers, before anything is read
    found = check_base(recipe)
    fused = check_distillation(recipe, found.models)
    # 2. Read the weights, and distil them
    pipe = found.open(DTYPES[recipe.dtype])
    pipe.set_progress_bar_config(disable=True)
    if recipe.distill:
        if recipe.distill.kind == "unet":
            _replace_unet(pipe, recipe, recipe.distill.path)
        else:
            _fuse(pipe, recipe, recipe.distill.path, fused, recipe.distill.scale)
    # 3. To the device, for good
    pipe.to(device)
    pipe.vae.to(vae_dtype(recipe, found))
    for model in models_of(pipe).values():
        model.requires_grad_(requires_grad=False).eval()
    return pipe


def check_base(recipe: Recipe) -> FoundPipeline:
    """What the base consists of, by its headers.

    Raises:
        RecipeError: it can't be used.
    """
    try:
        return check_pipeline(recipe.base.path, family=recipe.family, config=recipe.base.config)
    except PipelineRefused as refused:
        raise recipe.mistake("base.source", str(refused)) from None


def check_distillation(recipe: Recipe, models: Mapping[str, nn.Module]) -> tuple[LoraModule, ...]:
    """Whether a recipe's distillation fits its base, by the headers; ``models`` may be on the device "meta".

    Returns:
        What a LoRA is fused into; of a distilled UNet, or none, nothing.

    Raises:
        RecipeError: it does not fit, or can't be read.
    """
    if recipe.distill is None:
        return ()
    file = recipe.distill.path
    if recipe.distill.kind == "unet":
        _check_unet(recipe, file, models["unet"])
        return ()
    with _opened(recipe, file):
        pass
    try:
        return read_modules(file, table_of(models, family=recipe.family, digest=""))
    except LoraError as error:
        raise recipe.mistake("distill.source", f"is no LoRA for this base: {file.name}: {error}") from None


def vae_dtype(recipe: Recipe, found: FoundPipeline) -> torch.dtype:
    """The recipe's, but float32 where float16 paints black: as SDXL's pipeline does for each picture."""
    dtype = DTYPES[recipe.dtype]
    upcast = found.kind is StableDiffusionXLPipeline and found.models["vae"].config.force_upcast
    return torch.float32 if upcast and dtype is torch.float16 else dtype


def models_of(pipe: Pipeline) -> dict[str, nn.Module]:
    """A pipeline's models by their names."""
    return {name: model for name in COMPONENTS if isinstance(model := getattr(pipe, name, None), nn.Module)}


def _check_unet(recipe: Recipe, file: Path, unet: nn.Module) -> None:
    """Every weight of a distilled UNet must come, and no other."""
    own = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    with _opened(recipe, file) as given:
        theirs = {name: tuple(given.get_slice(name).get_shape()) for name in given.keys()}  # noqa: SIM118  # no dict
    if theirs != own:
        odd = min(own.items() ^ theirs.items())[0]
        which = "lacks" if odd not in theirs else "has the unknown" if odd not in own else "has another shape of"
        raise recipe.mistake("distill.source", f"is no UNet of this base: {file.name} {which} {odd}")


def _replace_unet(pipe: Pipeline, recipe: Recipe, file: Path) -> None:
    """Puts the weights of a distilled UNet in the place of the base's."""
    with _opened(recipe, file) as given:
        for name, parameter in pipe.unet.state_dict().items():
            parameter.copy_(given.get_tensor(name))


@torch.no_grad()
def _fuse(pipe: Pipeline, recipe: Recipe, file: Path, modules: tuple[LoraModule, ...], scale: float) -> None:
    """Adds a LoRA to the weights: W += scale * alpha / rank * B A, in float32 at least, rounded once.

    Read as strictly as a brand's adapter: each of its tensors is used, or it is refused.
    """
    with _opened(recipe, file) as given:
        for module in modules:
            model = getattr(pipe, module.component)
            weight = model.get_submodule(path_in(model, module.path)).weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            down, up = (given.get_tensor(half).to(wide).flatten(1) for half in (module.down, module.up))
            change = (up @ down).view(weight.shape)
            weight.copy_(weight.to(wide).add_(change, alpha=scale * module.scale))


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
