"""Lays pictures out on a page to look at. Knows nothing about how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from models.studio.captions import prompt
from models.studio.dataset import CACHE
from models.studio.scenes import BACKGROUNDS, COLOURS, OBJECTS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def grid(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    side = rows[0][0].width
    page = Image.new("RGB", (max(map(len, rows)) * (side + gap) - gap, len(rows) * (side + gap) - gap), "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            page.paste(picture, (c * (side + gap), r * (side + gap)))
    return page


def sample_prompts() -> list[str]:
    """One prompt an object, colours and backgrounds taken in turn."""
    colours, walls = list(COLOURS), list(BACKGROUNDS)
    return [prompt(o, colours[(5 * i) % len(colours)], walls[(3 * i) % len(walls)]) for i, o in enumerate(OBJECTS)]


def peek(pipe: StableDiffusionPipeline, name: str, *, steps: tuple[int, ...] = (25, 4), guidance: float = 3.0) -> None:
    """Writes a small sheet to the cache folder while a stage trains: figures alone will fool you."""
    pipe.set_progress_bar_config(disable=True)
    rows = [
        pipe(
            sample_prompts(),
            num_inference_steps=n,
            guidance_scale=guidance if n > 8 else 0.0,
            generator=[torch.Generator().manual_seed(i) for i in range(12)],
        ).images
        for n in steps
    ]
    grid(rows).save(CACHE / f"{name}.png")
