"""What a UNet is told beside latents and timestep: the prompt's embeddings; SDXL's, a pooled one and the size, too.

Knows nothing about adapters; whose text encoders are asked is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from services.gpu_worker.engine.pipelines import Pipeline


@dataclass(frozen=True)
class Conditioning:
    """Of one prompt, or of two where guided: what the picture is to be unlike comes first."""

    embeds: Tensor  # [prompts, tokens, width]
    pooled: Tensor | None = None  # [prompts, width], where the UNet takes one


def encoded(pipe: Pipeline, prompt: str, negative: str, *, guided: bool, clip_skip: int) -> Conditioning:
    """Encodes a prompt as the pipeline would; a negative prompt that is empty counts as none."""
    unlike = (negative or None) if guided else None
    options = {"negative_prompt": unlike, "clip_skip": clip_skip or None}
    if isinstance(pipe, StableDiffusionXLPipeline):
        asked, without, pooled, pooled_without = pipe.encode_prompt(
            prompt, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=guided, **options
        )
        return Conditioning(_rows(without, asked, guided=guided), _rows(pooled_without, pooled, guided=guided))
    asked, without = pipe.encode_prompt(prompt, pipe.device, 1, guided, **options)
    return Conditioning(_rows(without, asked, guided=guided))


def _rows(without: Tensor | None, asked: Tensor, *, guided: bool) -> Tensor:
    return torch.cat([without, asked]) if guided and without is not None else asked


def added(conditioning: Conditioning, *, width: int, height: int) -> Mapping[str, Tensor]:
    """``added_cond_kwargs`` of a UNet: none, or the pooled embeddings and the size in pixels, uncropped.

    Returns:
        "text_embeds" [prompts, width] and "time_ids" [prompts, 6].
    """
    pooled = conditioning.pooled
    if pooled is None:
        return {}
    size = pooled.new_tensor([height, width, 0, 0, height, width])
    return {"text_embeds": pooled, "time_ids": size.expand(len(pooled), -1)}
