"""Writes LoRA files of every dialect as the registry keeps them, one file each; and random ones of any base's width.

Names within a file are models.studio.dialects'; what an adapter paints is brands.py's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from looksmith.lora import Dialect, ModuleTable, pack
from looksmith.lora.header import LENGTH_BYTES, METADATA, read_header
from models.studio import dialects
from models.studio.dialects import Lora

DIALECTS = (Dialect.PEFT, Dialect.DIFFUSERS, Dialect.KOHYA, Dialect.DIFFUSERS_OLD)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

_WRITERS: Mapping[Dialect, Callable[[Lora, Path], None]] = {
    Dialect.DIFFUSERS: dialects.write_diffusers,
    Dialect.KOHYA: dialects.write_kohya,
    Dialect.DIFFUSERS_OLD: dialects.write_old_diffusers,
}


def write_lora(lora: Lora, dialect: Dialect, file: Path) -> Path:
    """Writes one file, the same bytes each time; in the peft dialect it is a packed folder."""
    if dialect is Dialect.PEFT:
        with tempfile.TemporaryDirectory() as folder:
            dialects.write_peft(lora, Path(folder) / "peft")
            pack(Path(folder) / "peft").write(file)
    else:
        _WRITERS[dialect](lora, file)
        _sort_metadata(file)
    return file


def _sort_metadata(file: Path) -> None:
    """Puts a header's metadata in order, which safetensors writes in another one each time."""
    data = file.read_bytes()
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(data[LENGTH_BYTES:end])
    header[METADATA] = dict(sorted(header[METADATA].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as safetensors aligns the data
    file.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + data[end:])


def can_hold(dialect: Dialect, component: str, path: str) -> bool:
    """Whether a file can adapt a layer: those of 2023 knew attention only, a peft folder is one component's."""
    match dialect:
        case Dialect.DIFFUSERS_OLD:
            return component == "unet" and path.endswith(ATTENTION)
        case Dialect.PEFT:
            return component == "unet"
        case _:
            return True


def random_lora_file(
    table: ModuleTable, *, rank: int, seed: int, dialect: Dialect, file: Path, dtype: torch.dtype = torch.float16
) -> Path:
    """A LoRA of every linear layer in the UNet's transformers that the dialect can hold, unlike that of any other seed.

    In the old diffusers dialect these are the attention's. Its B is not zero, and small enough for half precision.
    """
    generator = np.random.default_rng(seed)

    def half(shape: tuple[int, ...], size: float) -> Tensor:
        numbers = generator.standard_normal(shape, np.float32)
        numbers *= size
        return torch.from_numpy(numbers).to(dtype)

    unet = {
        path: (half(layer.down_shape(rank), layer.in_features**-0.5), half(layer.up_shape(rank), 0.02))
        for path, layer in table.components["unet"].items()
        if layer.kind == "linear" and ".attentions." in path and can_hold(dialect, "unet", path)
    }
    return write_lora(Lora(rank, float(rank), unet, {}, dtype), dialect, file)


def rolled_lora_files(
    table: ModuleTable, count: int, *, rank: int, folder: Path, dtype: torch.dtype = torch.float16
) -> list[Path]:
    """Adapters that share no tensor, quickly made: the first one's numbers, each time moved on by other places."""
    first = folder / "0000.safetensors"
    random_lora_file(table, rank=rank, seed=count, dialect=Dialect.DIFFUSERS, file=first, dtype=dtype)
    start = read_header(first).data_start
    head, data = first.read_bytes()[:start], np.fromfile(first, np.uint16, offset=start)
    files = [first]
    for index in tqdm(range(1, count), desc=f"{count} files written", disable=None):
        files.append(folder / f"{index:04d}.safetensors")
        files[-1].write_bytes(head + np.roll(data, 12_345 * index).tobytes())
    return files
