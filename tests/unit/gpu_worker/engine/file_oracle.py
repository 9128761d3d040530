"""What a LoRA file does to a base, worked out from the file's bytes and the list of the base's layers alone.

Goes the other way round than looksmith.lora, of which it uses nothing: from each layer to all names that it may have in
a file, so that a tensor which belongs to no layer is found out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.unit.looksmith.lora.drawn_files import LAYERS, stability_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """What is added to one layer: scale x B x A."""

    down: Floats  # A [rank, in x height x width]
    up: Floats  # B [out, rank]
    scale: float

    def of(self, inputs: Floats) -> Floats:
        """What it adds to the outputs [out, n] for inputs [in x height x width, n]."""
        return self.scale * (self.up @ (self.down @ inputs))

    def bound(self, inputs: Floats) -> Floats:
        """What rounding is measured by: the same with all signs equal."""
        return abs(self.scale) * (abs(self.up) @ (abs(self.down) @ abs(inputs)))


@dataclass(frozen=True)
class File:
    """Tensors and metadata of a safetensors file."""

    tensors: Mapping[str, Floats]
    metadata: Mapping[str, str]


def read_file(path: Path) -> File:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        tensors[name] = _floats(data[end + start : end + stop], entry["dtype"]).reshape(entry["shape"])
    return File(tensors, metadata)


def _floats(data: bytes, dtype: str) -> Floats:
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}[dtype]).astype(np.float64)


def changes_of(path: Path, family: str) -> dict[str, Change]:
    """What the file does to each layer, by component and path.

    Raises:
        AssertionError: a tensor belongs to no layer of the base.
    """
    file, left = read_file(path), set(read_file(path).tensors)
    changes = {}
    for component, layers in LAYERS[family].items():
        for layer, (wide, high, *kernel) in layers.items():
            shapes = ((wide, *kernel), (high,))
            for stem, down, up in _names(family, component, layer):
                pair = file.tensors.get(f"{stem}{down}"), file.tensors.get(f"{stem}{up}")
                if pair[0] is None or pair[1] is None or (pair[0].shape[1:], pair[1].shape[:1]) != shapes:
                    continue
                assert f"{component}.{layer}" not in changes
                rank = len(pair[0])
                scale = _scale(file, component, stem, rank)
                changes[f"{component}.{layer}"] = Change(pair[0].reshape(rank, -1), pair[1].reshape(-1, rank), scale)
                left -= {f"{stem}{down}", f"{stem}{up}", f"{stem}.alpha"}
    assert not left, f"no layer of {family} is meant by {sorted(left)}"
    return changes


def _names(family: str, component: str, layer: str) -> Iterator[tuple[str, str, str]]:
    """The beginnings of names that a layer's tensors may have, each with the ends for A and B."""
    new, old, flat = (
        (f".{a}.weight", f".{b}.weight")
        for a, b in (("lora_A", "lora_B"), ("lora.down", "lora.up"), ("lora_down", "lora_up"))
    )
    for path in {layer, layer.removeprefix("text_model.")}:
        yield f"base_model.model.{path}", *new
        yield f"{component}.{path}", *new
        yield f"{component}.{path}", *old
        yield f"{component}.{path}", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
        if match := re.fullmatch(r"(.+\.attn\d)\.(to_[qkv]|to_out)(\.0)?", path):
            yield f"{component}.{match[1]}.processor.{match[2]}_lora", ".down.weight", ".up.weight"
        if match := re.fullmatch(r"(.+\.self_attn)\.(q|k|v|out)_proj", path):
            yield f"{component}.{match[1]}.to_{match[2]}_lora", ".down.weight", ".up.weight"
        for prefix in {"unet": ["unet"], "text_encoder": ["te", "te1"], "text_encoder_2": ["te2"]}[component]:
            yield f"lora_{prefix}_{path.replace('.', '_')}", *flat
    if component == "unet" and family != "studio":
        yield f"lora_unet_{stability_name(family, layer).replace('.', '_')}", *flat


def _scale(file: File, component: str, stem: str, rank: int) -> float:
    """Alpha / rank, or with rsLoRA alpha / sqrt(rank); alpha is the rank where nothing says otherwise.

    An alpha tensor of 0 means the rank, too: so sd-scripts trains, networks/lora.py.
    """
    if (alpha := file.tensors.get(f"{stem}.alpha")) is not None:
        return (float(alpha.reshape(())) or rank) / rank
    config = _config(file, component)
    if not config:
        return 1.0
    path = stem.removeprefix("base_model.model.").removeprefix(f"{component}.")
    patterns = config["alpha_pattern"].items()  # type: ignore[attr-defined]  # JSON
    own = (value for key, value in patterns if re.match(rf"(.*\.)?({key})$", path))  # as peft looks them up
    alpha = next(own, config["lora_alpha"])  # type: ignore[assignment]  # JSON
    return float(alpha) / (math.sqrt(rank) if config["use_rslora"] else rank)  # type: ignore[arg-type]  # JSON


def _config(file: File, component: str) -> Mapping[str, object]:
    if "looksmith.peft_config" in file.metadata:  # of a packed folder
        packed: Mapping[str, object] = json.loads(file.metadata["looksmith.peft_config"])
        return packed
    of_all = json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
    mine = (key for key in of_all if key.startswith(f"{component}."))
    return {key.removeprefix(f"{component}."): of_all[key] for key in mine}
