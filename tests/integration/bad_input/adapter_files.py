"""Good adapter files for the studio's base. The hostile ones are tests/unit/looksmith/lora/hostile_files.py's."""

from __future__ import annotations

import numpy as np

from looksmith.lora import packaged_table
from tests.unit.looksmith.lora.lora_files import Tensor, safetensors, tensor

STUDIO = packaged_table("studio")


def good_lora(seed: int, rank: int = 4) -> bytes:
    """Random weights on every attention layer, strong enough to show and weak enough to leave a picture."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for path, module in STUDIO.components["unet"].items():
        if ".attn" in path:
            tensors[f"unet.{path}.lora_A.weight"] = tensor(random.normal(0, 0.15, module.down_shape(rank)))
            tensors[f"unet.{path}.lora_B.weight"] = tensor(random.normal(0, 0.15, module.up_shape(rank)))
    return safetensors(tensors)
