"""Small bases for tests: folders and files as diffusers and trainers write them, without any of their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

XL_KEYS = ("conditioner.embedders.1.model.ln_final.weight", "model.diffusion_model.out.0.weight")


def safetensors(data: bytes, names: Sequence[str] = ("weight",)) -> bytes:
    """A file whose first tensor is ``data``; the others are empty."""
    rows = {name: {"dtype": "U8", "shape": [0], "data_offsets": [len(data), len(data)]} for name in names}
    rows[names[0]] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    head = json.dumps(rows).encode()
    return len(head).to_bytes(8, "little") + head + data


def a_file(folder: Path, *, name: str = "xl.safetensors", data: bytes = b"weights") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(safetensors(data, XL_KEYS))
    return file


def a_folder(folder: Path, *, unet: bytes = b"unet", more: Mapping[str, bytes] | None = None) -> Path:
    """A diffusers folder of SDXL; ``more``: other files, by path."""
    files = {
        "model_index.json": b'{"_class_name": "StableDiffusionXLPipeline"}',
        "unet/config.json": b'{"cross_attention_dim": 2048}',
        "unet/diffusion_pytorch_model.safetensors": safetensors(unet),
        "vae/diffusion_pytorch_model.safetensors": safetensors(b"vae"),
        **(more or {}),
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by path."""
    found = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    return {
        path.as_posix(): file.read_bytes()
        for path, file in found.items()
        if not any(part.startswith(".") for part in path.parts)
    }
