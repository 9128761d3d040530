"""Writes valid LoRA files of any size quickly: every linear layer of a base's UNet, with made-up numbers.

Knows shapes and the file format; torch is not needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from looksmith.lora import ModuleTable

_BYTES = {"F16": 2, "F32": 4}
_BLOCK_NUMBERS = 1 << 20


def write_large_lora(table: ModuleTable, file: Path, *, rank: int, dtype: str = "F16", seed: int = 0) -> Path:
    """A file in the diffusers dialect, the same bytes for the same arguments. Its numbers repeat every few MiB."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for path, layer in table.components["unet"].items():
        if layer.kind != "linear":
            continue
        for half, shape in (("lora_A", layer.down_shape(rank)), ("lora_B", layer.up_shape(rank))):
            start, end = end, end + shape[0] * shape[1] * _BYTES[dtype]
            header[f"unet.{path}.{half}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    numbers = np.random.default_rng(seed).standard_normal(_BLOCK_NUMBERS, np.float32) * 0.02
    block = numbers.astype(f"<f{_BYTES[dtype]}").tobytes()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for at in range(0, end, len(block)):
            stream.write(block[: end - at])
    return file
