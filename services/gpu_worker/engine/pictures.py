"""Latents as the pictures that diffusers' own pipelines would return. Knows nothing about jobs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from services.gpu_worker.engine.pipelines import Pipeline
from services.gpu_worker.engine.protocol import Pixels

#: Pixels that are decoded in one batch: two pictures of SDXL, eight of SD 1.5. A VAE gains nothing from larger ones,
#: and takes 2.5 GiB for each picture of SDXL.
_AT_ONCE = 1 << 21


def decoded_at_once(width: int, height: int) -> int:
    """How many pictures of a size, in pixels, share a batch of the VAE."""
    return max(1, _AT_ONCE // (width * height))


def decoded(pipe: Pipeline, latents: Tensor) -> list[Pixels]:
    """Latents [n, channels, height, width], decoded in as few batches as memory is counted for."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[2:])
    parts = latents.split(decoded_at_once(width, height))
    return [pixels for part in parts for pixels in _decoded(pipe, part)]


def _decoded(pipe: Pipeline, latents: Tensor) -> list[Pixels]:
    vae = pipe.vae
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor
    if getattr(vae.config, "latents_mean", None) is not None and vae.config.latents_std is not None:
        mean, std = (
            torch.tensor(each, dtype=vae.dtype, device=latents.device).view(1, -1, 1, 1)
            for each in (vae.config.latents_mean, vae.config.latents_std)
        )
        scaled = scaled * std + mean
    images = vae.decode(scaled, return_dict=False)[0]
    drawn = pipe.image_processor.postprocess(images, output_type="np")
    return [
        Pixels(picture.shape[1], picture.shape[0], (picture * 255).round().astype(np.uint8).tobytes())
        for picture in drawn
    ]
