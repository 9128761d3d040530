"""The published bases at full width: models built from their configs.

Weights are random, which is all that speed and memory depend on. What LoRA can adapt is module_tables.py's; the configs
of the families that recipes name are the engine's.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
import transformers
from torch import nn

from services.gpu_worker.engine.families import SKELETONS

#: Stable Diffusion 1.5, Stable Diffusion 2.1 and Stable Diffusion XL base 1.0: the folder of each one's configs.
FOLDERS = {"sd15": SKELETONS["sd15"], "sd2": Path(__file__).parent / "sd2", "sdxl": SKELETONS["sdxl"]}
FAMILIES = tuple(FOLDERS)


def new_model(
    family: str, component: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16
) -> nn.Module:
    """A base's unet, vae, text_encoder or text_encoder_2 with random weights; on the device "meta" it takes no memory.

    Raises:
        FileNotFoundError: the base has no such component.
    """
    config = json.loads((FOLDERS[family] / component / "config.json").read_text("utf-8"))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # born in its type: SDXL's UNet in float32, only to be rounded, would take 10 GB
    try:
        with torch.device(device):
            model: nn.Module
            if "_class_name" in config:
                model = getattr(diffusers, config["_class_name"]).from_config(config)
            else:
                kind = getattr(transformers, config["architectures"][0])
                model = kind(transformers.CLIPTextConfig.from_dict(config))
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(requires_grad=False)
