"""Latents as the pictures that diffusers' own pipelines would return. Knows nothing about jobs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from services.gpu_worker.engine.pipelines import Pipeline
from services.gpu_worker.engine.protocol import Pixels


def decoded(pipe: Pipeline, latents: Tensor) -> list[Pixels]:
    """Latents [n, channels, height, width], decoded in one batch."""
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
