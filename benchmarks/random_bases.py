"""Shipped recipes with all that they name, of random weights and full size: base folder and distillation.

Builds one model at a time; what is measured with them is readiness.py's and full_size.py's.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from benchmarks.bases import new_model
from benchmarks.reduced_bases import RECIPES, models, random_lora, write_kohya
from benchmarks.single_files import reduced_pipeline
from looksmith.lora import ModuleTable, packaged_table
from services.gpu_worker.engine.families import SKELETONS
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.recipe_file import read_recipe

COMPONENTS = {
    "sd15": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}
#: As the published Hyper-SD LoRAs have.
DISTILLATION_RANK = 64
REDUCED_SIDE, REDUCED_RANK = 128, 4


@dataclass(frozen=True)
class Served:
    """A recipe file, and the layers of its base."""

    recipe: Path
    table: ModuleTable

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures."""
        return read_recipe(self.recipe).sizes[0]


def write_served(name: str, folder: Path, *, reduced: bool) -> Served:
    """Writes a shipped recipe of sd15 or sdxl with a LoRA distillation, where it looks for it, and its weights in bf16.

    Args:
        name: the recipe's.
        folder: gets deploy/recipes and bases.
        reduced: narrow models and small pictures, to try things out.
    """
    family = name.partition("-")[0]
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of transformers
    base = folder / "bases" / family
    table = _write_reduced(family, base) if reduced else _write_full(family, base)
    text = (RECIPES / family / f"{name}.toml").read_text()
    if reduced:
        text = re.sub(r"^sizes = .*$", f"sizes = [[{REDUCED_SIDE}, {REDUCED_SIDE}]]", text, flags=re.MULTILINE)
    recipe = folder / "deploy" / "recipes" / family / f"{name}.toml"
    recipe.parent.mkdir(parents=True)
    distillation = re.search(r'"\.\./\.\./\.\./(bases/distill/.+)"', text)
    if distillation is None:
        raise ValueError(f"{name} names no distillation")
    file = folder / distillation[1]
    file.parent.mkdir()
    rank = REDUCED_RANK if reduced else DISTILLATION_RANK
    lora = random_lora(table, seed=1, only=("unet",), rank=rank)
    halves = {layer: (down.bfloat16(), up.bfloat16()) for layer, (down, up) in lora.items()}
    write_kohya(halves, file, table, original_names=family == "sdxl")
    recipe.write_text(text)
    return Served(recipe, table)


def _write_full(family: str, folder: Path) -> ModuleTable:
    """One component after the other, so that only one is in memory."""
    shutil.copytree(SKELETONS[family], folder)
    for component in tqdm(COMPONENTS[family], desc=f"{family}: models written", disable=None):
        new_model(family, component, dtype=torch.bfloat16).save_pretrained(folder / component)  # type: ignore[operator]  # of diffusers and transformers
    return packaged_table(family)


def _write_reduced(family: str, folder: Path) -> ModuleTable:
    pipe = reduced_pipeline(family, seed=0, dtype=torch.bfloat16)
    pipe.save_pretrained(folder)
    return table_of(models(pipe), family=family, digest="")
