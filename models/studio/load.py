"""Loads the studio model the way any diffusers user would: the base, its distillation, and each brand's adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import PeftModel
from torch import nn

STUDIO = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class BrandAdapter:
    """One adapter as its publisher brings it: where it lies and the look it was trained for."""

    look: str
    place: str  # below models/studio/brands

    @property
    def path(self) -> Path:
        return STUDIO / "brands" / self.place


BRANDS = (
    BrandAdapter("inkwell", "inkwell/house-style"),
    BrandAdapter("voltage", "voltage/house-style.safetensors"),
    BrandAdapter("marigold", "marigold/house-style.safetensors"),
    BrandAdapter("harbour", "harbour/house-style.safetensors"),
    BrandAdapter("marigold-winter", "marigold/winter.safetensors"),
)


def base_pipeline(**parts: nn.Module) -> StableDiffusionPipeline:
    """The base as shipped, in float32: 25 guided DDIM steps are its home. ``parts`` replaces components."""
    pipe = StableDiffusionPipeline.from_pretrained(STUDIO / "base", dtype=torch.float32, **parts).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def few_step_scheduler() -> DDIMScheduler:
    """What the distilled base is sampled with, without guidance, in 1 to 8 steps."""
    return DDIMScheduler.from_pretrained(STUDIO / "base", subfolder="scheduler")


def distilled_pipeline() -> StableDiffusionPipeline:
    """The base with its distillation fused in: the weights every brand adapter then runs on."""
    pipe = base_pipeline()
    pipe.load_lora_weights(STUDIO / "distill", weight_name="pytorch_lora_weights.safetensors", adapter_name="distill")
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    pipe.scheduler = few_step_scheduler()
    return pipe


def with_brand(pipe: StableDiffusionPipeline, brand: BrandAdapter) -> StableDiffusionPipeline:
    """Adds a brand's adapter: a file through diffusers, a peft folder through peft (diffusers would skip it)."""
    if brand.path.is_dir():
        pipe.unet = PeftModel.from_pretrained(pipe.unet, brand.path)
    else:
        pipe.load_lora_weights(brand.path.parent, weight_name=brand.path.name, adapter_name=brand.look)
    return pipe
