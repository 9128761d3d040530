"""What a UNet is told beside latents and timestep: the prompt's embeddings; SDXL's, a pooled one and the size, too.

Knows nothing about adapters; whose text encoders are asked is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from services.gpu_worker.engine.pipelines import Pipeline


@dataclass(frozen=True)
class Conditioning:
    """Of one prompt, or of two where guided: what the picture is to be unlike comes first."""

    embeds: Tensor  # [prompts, tokens, width]
    pooled: Tensor | None = None  # [prompts, width], where the UNet takes one


def encoded(pipe: Pipeline, prompt: str, negative: str, *, guided: bool, clip_skip: int) -> Conditioning:
    """Encodes a prompt as the pipeline would; a negative prompt that is empty counts as none."""
    if isinstance(pipe, StableDiffusionXLPipeline):
        asked, without, pooled, pooled_without = pipe.encode_prompt(
            prompt,
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=(negative or None) if guided else None,
            clip_skip=clip_skip or None,
        )
        return Conditioning(_rows(without, asked, guided=guided), _rows(pooled_without, pooled, guided=guided))
    asked, without = pipe.encode_prompt(prompt, pipe.device, 1, guided, negative if guided else None)
    if clip_skip:
        # The pipeline looks for the norm where transformers no longer has it. A negative prompt skips nothing.
        asked = _before_the_last(pipe, prompt, clip_skip)
    return Conditioning(_rows(without, asked, guided=guided))


def _before_the_last(pipe: StableDiffusionPipeline, prompt: str, layers: int) -> Tensor:
    """A prompt [1, tokens, width] from which the text encoder's last layers are left out, its final norm is not."""
    tokens = pipe.tokenizer(
        prompt,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    encoder = pipe.text_encoder
    said = encoder(tokens.to(pipe.device), output_hidden_states=True).hidden_states[-(layers + 1)]
    normed: Tensor = getattr(encoder, "text_model", encoder).final_layer_norm(said)
    return normed


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
