"""Opens a base as a pipeline, from a diffusers folder or one file in the original layout, without asking the network.

Every weight comes from the files, or the base is refused. Distillation, samplers and devices are base.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from services.gpu_worker.engine import base_kinds
from services.gpu_worker.engine.base_weights import (
    BAD_CONFIG,
    PipelineRefused,
    Stored,
    check_fit,
    empty_model,
    fill,
    stored_in,
    stored_model,
)
from services.gpu_worker.engine.clip_tokenizer import PADS, clip_tokenizer
from services.gpu_worker.engine.families import SKELETONS

__all__ = ["FoundPipeline", "Pipeline", "PipelineRefused", "check_pipeline", "open_pipeline"]

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

_KINDS = {"sdxl": StableDiffusionXLPipeline}


@dataclass(frozen=True)
class FoundPipeline:
    """A base that can be opened: what it consists of, and where its weights lie."""

    kind: type[Pipeline]
    models: Mapping[str, Any]  # by component; their weights have shapes but no memory, until it is opened
    weights: Mapping[str, Stored]  # by component
    is_original: bool  # one file in the layout of its makers
    index: Mapping[str, Any]  # of model_index.json
    parts: Mapping[str, Any]  # scheduler and tokenizers

    def open(self, dtype: torch.dtype) -> Pipeline:
        """The pipeline on the CPU in ``dtype``, frozen, without a safety checker. It takes the models: once only."""
        for component, stored in self.weights.items():
            fill(component, self.models[component], stored, is_original=self.is_original, dtype=dtype)
        given: dict[str, Any] = {**self.models, **self.parts}
        if self.kind is StableDiffusionXLPipeline:
            zeros = self.index.get("force_zeros_for_empty_prompt", True)
            return self.kind(**given, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
        return self.kind(**given, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def open_pipeline(source: Path, *, family: str, dtype: torch.dtype, config: Path | None = None) -> Pipeline:
    """The base on the CPU in ``dtype``, frozen, without a safety checker. The rest is as in check_pipeline."""
    return check_pipeline(source, family=family, config=config).open(dtype)


def check_pipeline(source: Path, *, family: str, config: Path | None = None) -> FoundPipeline:
    """What a base consists of, by its headers and configs alone.

    Args:
        source: a diffusers folder; for sd15 and sdxl a .safetensors file in the original layout, too.
        family: sd15, sdxl, or any other, which then opens as StableDiffusionPipeline.
        config: a diffusers folder whose configs describe a single file; None: the family's, as published.

    Raises:
        PipelineRefused: the source is not wholly there, or nothing that Looksmith paints with.
    """
    is_original = source.is_file()
    if not is_original and not source.is_dir():
        raise PipelineRefused(f"{source} does not exist. Name a diffusers folder or a .safetensors file")
    if not is_original and config is not None:
        raise PipelineRefused(f"{source} is a folder and has its own configs. Leave the other config out")
    # 1. Read the headers of the weights, and what describes the models
    weights = _of_file(source, family) if is_original else _of_folder(source, family)
    folder = source if not is_original else config or SKELETONS[family]
    index = _index(folder)
    kind = _KINDS.get(family, StableDiffusionPipeline)
    if index["_class_name"] != kind.__name__:
        raise PipelineRefused(f"{folder} is of {index['_class_name']}; the family {family} opens as {kind.__name__}")
    configs = {component: _json(folder / component / "config.json") for component in weights}
    # 2. Refuse what can't be served
    _check_conditions(source, configs, weights["unet"])
    models: dict[str, Any] = {}
    for component, stored in weights.items():
        models[component] = empty_model(component, configs[component], place=folder / component / "config.json")
        check_fit(component, models[component], stored, is_original=is_original)
    texts = [model.config.hidden_size for component, model in models.items() if component.startswith("text_encoder")]
    if (reads := weights["unet"].width("attn2.to_k.weight")) != sum(texts):
        raise PipelineRefused(
            f"{source} has a UNet that reads text of width {reads}, but its text encoders write {sum(texts)}. "
            "Take both from one model"
        )
    parts: dict[str, Any] = {"scheduler": _scheduler(folder / "scheduler" / "scheduler_config.json")}
    for component in weights:
        if component.startswith("text_encoder"):
            name = component.replace("text_encoder", "tokenizer")
            parts[name] = _tokenizer(folder / name, family, configs[component])
    return FoundPipeline(kind, models, weights, is_original, index, parts)


def _of_file(file: Path, family: str) -> dict[str, Stored]:
    """Each component's tensors in a single file of the family's."""
    if family not in SKELETONS:
        known = " and ".join(SKELETONS)
        raise PipelineRefused(f"{file} is a single file, which only {known} are opened from. Name a diffusers folder")
    stored = stored_in(file, place=file)
    prefixes = base_kinds.PREFIXES[family]
    if reason := base_kinds.foreign_file(stored.tensors.keys()):
        raise PipelineRefused(f"{file} {reason}")
    if encoders := base_kinds.encoders_of_file(stored.tensors.keys()):
        _check_family(file, family, stored.under(prefixes["unet"]), encoders)
    parts = {component: stored.under(prefix) for component, prefix in prefixes.items()}
    for component, part in parts.items():
        if not part.tensors:
            raise PipelineRefused(
                f"{file} has no {component} ({prefixes[component]}…) and is only part of a checkpoint. "
                "Fetch the whole one, or a diffusers folder"
            )
    return parts


def _of_folder(folder: Path, family: str) -> dict[str, Stored]:
    """Each component's tensors in a diffusers folder of the family's."""
    has_two = _index(folder)["_class_name"] == StableDiffusionXLPipeline.__name__
    unet = stored_model(folder / "unet")
    _check_family(folder, family, unet, "sdxl" if has_two else None)
    others = ("vae", "text_encoder", "text_encoder_2") if has_two else ("vae", "text_encoder")
    return {"unet": unet} | {component: stored_model(folder / component) for component in others}


def _index(folder: Path) -> dict[str, Any]:
    """A folder's model_index.json, once its pipeline is one that can be served."""
    index = _json(folder / "model_index.json")
    if reason := base_kinds.foreign_index(index):
        raise PipelineRefused(f"{folder} {reason}")
    return index


def _check_family(source: Path, family: str, unet: Stored, encoders: str | None) -> None:
    width = unet.width("attn2.to_k.weight") or 0
    if reason := base_kinds.another_kind(family, text_width=width, encoders=encoders):
        raise PipelineRefused(f"{source} {reason}")


def _check_conditions(source: Path, configs: Mapping[str, Mapping[str, Any]], unet: Stored) -> None:
    pooled = configs["text_encoder_2"].get("projection_dim", 512) if "text_encoder_2" in configs else None
    reason = base_kinds.foreign_unet(
        configs["unet"],
        unet.tensors.keys(),
        channels=unet.width("input_blocks.0.0.weight") or unet.width("conv_in.weight") or 0,
        latent_channels=configs["vae"].get("latent_channels", 4),
    ) or base_kinds.foreign_conditions(configs["unet"], pooled_width=pooled)
    if reason:
        raise PipelineRefused(f"{source} {reason}")


def _tokenizer(folder: Path, family: str, encoder: Mapping[str, Any]) -> CLIPTokenizer:
    """The folder's; CLIP's where there is none and the family's is known to be CLIP's."""
    tokenizer: CLIPTokenizer
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise PipelineRefused(f"{folder} can't be read: {error}") from None
    elif family in SKELETONS:
        tokenizer = clip_tokenizer(pad_token=PADS[folder.name])
    else:
        raise PipelineRefused(f"{folder} holds no tokenizer, and that of the family {family} is not known")
    if len(tokenizer) > (known := encoder.get("vocab_size", 49_408)):
        raise PipelineRefused(
            f"{folder} has {len(tokenizer)} tokens, but its text encoder knows {known}. Take both from one model"
        )
    return tokenizer


def _scheduler(file: Path) -> diffusers.SchedulerMixin:
    config = _json(file)
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise PipelineRefused(f"{file} names no scheduler of diffusers: {config.get('_class_name')}")
    try:
        return kind.from_config(config)  # type: ignore[attr-defined]  # of diffusers
    except BAD_CONFIG as error:
        raise PipelineRefused(f"{file} describes no {kind.__name__}: {error}") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PipelineRefused(
            f"{file} can't be read: {error.strerror}. Fetch the whole diffusers folder again"
        ) from None
    except ValueError as error:
        raise PipelineRefused(f"{file} is no JSON: {error}. Fetch it again") from None
    if not isinstance(read, dict):
        raise PipelineRefused(f"{file} holds no JSON object. Fetch it again")
    return read
