"""Stable Diffusion's safety checker: tells of a finished picture whether it may be shown. Knows nothing about jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessorPil

from services.gpu_worker.engine.protocol import Pixels
from services.gpu_worker.engine.recipe import Recipe


class SafetyChecker:
    """Asks as StableDiffusionPipeline does: CLIP's view of a picture beside that of concepts that nobody should see."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Loads the checker.

        Args:
            folder: its config and its weights.
            device: where it looks.
            dtype: of its weights there.

        Raises:
            OSError: files are missing, or weights in them.
        """
        self._model, loaded = StableDiffusionSafetyChecker.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        if loaded["missing_keys"]:  # transformers would draw them at random
            raise OSError(f"{folder} lacks the weights {min(loaded['missing_keys'])}")
        self._model.to(device).eval()
        size = self._model.config.vision_config.image_size
        self._processor = CLIPImageProcessorPil(crop_size=size, size={"shortest_edge": size})
        self._device, self._dtype = device, dtype

    @torch.inference_mode()
    def blocks(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether each of them is to be withheld."""
        images = [Image.frombytes("RGB", (each.width, each.height), each.rgb) for each in pictures]
        seen = self._processor(images, return_tensors="pt").pixel_values.to(self._device, self._dtype)
        _, blocked = self._model(clip_input=seen, images=[np.zeros(1) for _ in images])
        return [bool(each) for each in blocked]


def safety_checkers(recipes: Iterable[Recipe], device: torch.device, dtype: torch.dtype) -> Mapping[str, SafetyChecker]:
    """Those of the recipes that want one, by the recipe's name.

    Raises:
        RecipeError: a checker is missing.
    """
    by_folder: dict[Path, SafetyChecker] = {}
    checkers = {}
    for recipe in recipes:
        if not recipe.safety:
            continue
        folder = recipe.base.safety_checker or recipe.base.path / "safety_checker"
        if not folder.is_dir():
            raise recipe.mistake(
                "safety", f"asks for a checker, and {folder} is no folder; name one in base.safety_checker"
            )
        if folder not in by_folder:
            try:
                by_folder[folder] = SafetyChecker(folder, device, dtype)
            except OSError as error:
                raise recipe.mistake("safety", f"asks for a checker that can't be loaded: {error}") from None
        checkers[recipe.name] = by_folder[folder]
    return checkers
