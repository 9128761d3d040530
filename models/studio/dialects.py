"""Writes one LoRA in the four ways publishers bring it. Reading them is looksmith.lora's business, not ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.studio.training import replace_file, replace_folder

#: The header key under which diffusers keeps ranks and alphas (diffusers.loaders.lora_base).
DIFFUSERS_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class Lora:
    """A trained LoRA: per module ``(A [rank, in], B [out, rank])``, applied as ``alpha / rank * B A``."""

    rank: int
    alpha: float
    unet: dict[str, tuple[Tensor, Tensor]]
    text_encoder: dict[str, tuple[Tensor, Tensor]]
    dtype: torch.dtype = torch.float16  # of its file

    def parts(self) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        parts = {"unet": self.unet, "text_encoder": self.text_encoder}
        return {name: modules for name, modules in parts.items() if modules}


def _shipped(tensor: Tensor, lora: Lora) -> Tensor:
    return tensor.detach().to("cpu", lora.dtype).contiguous()


def write_peft(lora: Lora, folder: Path) -> None:
    """A peft folder of the UNet: adapter_config.json holds rank and alpha, the tensors do not."""
    tensors = {}
    for module, (down, up) in lora.unet.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = _shipped(down, lora)
        tensors[f"base_model.model.{module}.lora_B.weight"] = _shipped(up, lora)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted(lora.unet),
        "base_model_name_or_path": "models/studio/base",
    }

    def write(beside: Path) -> None:
        save_file(tensors, beside / "adapter_model.safetensors", metadata={"format": "pt"})
        (beside / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")

    replace_folder(folder, write)


def write_diffusers(lora: Lora, file: Path, told: Mapping[str, str] | None = None) -> None:
    """One file in today's diffusers form: peft keys behind the component's name, rank and alpha in the header.

    ``told`` is what else the header says.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, object] = {}
    for part, modules in lora.parts().items():
        metadata |= {
            f"{part}.r": lora.rank,
            f"{part}.lora_alpha": lora.alpha,
            f"{part}.target_modules": sorted(modules),
        }
        for module, (down, up) in modules.items():
            tensors[f"{part}.{module}.lora_A.weight"] = _shipped(down, lora)
            tensors[f"{part}.{module}.lora_B.weight"] = _shipped(up, lora)
    header = {"format": "pt", DIFFUSERS_METADATA: json.dumps(metadata, sort_keys=True), **(told or {})}
    replace_file(file, lambda beside: save_file(tensors, beside, metadata=header))


def write_kohya(lora: Lora, file: Path) -> None:
    """One file as kohya's sd-scripts writes it: flattened module names, an ``.alpha`` tensor a module."""
    tensors = {}
    for part, modules in lora.parts().items():
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
        for module, (down, up) in modules.items():
            name = prefix + module.replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = _shipped(down, lora)
            tensors[f"{name}.lora_up.weight"] = _shipped(up, lora)
            tensors[f"{name}.alpha"] = torch.tensor(float(lora.alpha), dtype=torch.float16)
    header = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": str(lora.alpha),
    }
    replace_file(file, lambda beside: save_file(tensors, beside, metadata=header))


def write_old_diffusers(lora: Lora, file: Path) -> None:
    """One file as diffusers wrote it in 2023: attention processors' up and down; alpha is not said (it is the rank)."""
    if lora.alpha != lora.rank or lora.text_encoder:
        raise ValueError("the old diffusers form knows neither alpha nor a text encoder")
    tensors = {}
    for module, (down, up) in lora.unet.items():
        attention, projection = module.removesuffix(".0").rsplit(".", 1)
        tensors[f"unet.{attention}.processor.{projection}_lora.down.weight"] = _shipped(down, lora)
        tensors[f"unet.{attention}.processor.{projection}_lora.up.weight"] = _shipped(up, lora)
    replace_file(file, lambda beside: save_file(tensors, beside, metadata={"format": "pt"}))
