"""Loads a recipe's base, fuses its distillation once and freezes it. Knows nothing about adapters or jobs."""

from __future__ import annotations

import copy
import itertools
import json

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from services.gpu_worker.engine.recipe import Recipe, RecipeError

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,  # for comparing engines: differences are then mistakes, not rounding
}


def load_base(recipe: Recipe, device: torch.device) -> StableDiffusionPipeline:
    """The base in the recipe's dtype, its distillation fused in: what every adapter then runs on.

    Raises:
        RecipeError: the base is incomplete, or of another kind than this engine paints with.
    """
    # diffusers warns of a truncated prompt with the prompt's words, which must not enter logs.
    diffusers_logging.set_verbosity_error()
    # transformers reports earlier adapters as missing from each new one's file.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # of transformers
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers
    index = recipe.base / "model_index.json"
    kind = json.loads(index.read_text("utf-8")).get("_class_name") if index.is_file() else "no pipeline"
    if kind != StableDiffusionPipeline.__name__:
        raise RecipeError(recipe.file, "base.source", f"holds {kind}; this engine paints with StableDiffusionPipeline")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(recipe.base, dtype=_DTYPES[recipe.dtype], local_files_only=True)
    except OSError as error:  # what diffusers and transformers raise for files that are missing or no models
        raise RecipeError(recipe.file, "base.source", f"can't be loaded: {error}") from None
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    if recipe.distill:
        source = recipe.distill.source
        pipe.load_lora_weights(source.parent, weight_name=source.name, adapter_name="distill")
        pipe.fuse_lora(components=["unet"], lora_scale=recipe.distill.scale)
        pipe.unload_lora_weights()
    for model in (pipe.unet, pipe.text_encoder, pipe.vae):
        model.requires_grad_(requires_grad=False).eval()
    return pipe


def shared_copy(model: nn.Module) -> nn.Module:
    """A model of the same structure on the same weights, storage and all, whose layers can be replaced."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def new_scheduler(recipe: Recipe) -> diffusers.SchedulerMixin:
    """The recipe's sampler, with no picture begun: some keep state between steps.

    Raises:
        RecipeError: diffusers has no such sampler, or it takes no such arguments.
    """
    kind = getattr(diffusers, recipe.sampler.name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise RecipeError(recipe.file, "sampler.class", f"is no scheduler of diffusers: {recipe.sampler.name!r}")
    try:
        return kind(**recipe.sampler.config)
    except TypeError as error:
        raise RecipeError(recipe.file, "sampler.config", f"does not fit {recipe.sampler.name}: {error}") from None
