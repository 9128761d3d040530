"""Builds small LoRA files and base tables for the tests, byte by byte, without the code under test."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from looksmith.lora.tables import Module, ModuleTable

CONTEXT = 12
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TO_OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    raw: bytes


def tensor(values: object, dtype: str = "F16") -> Tensor:
    array = np.asarray(values)
    if dtype == "BF16":
        raw = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        raw = array.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}[dtype]).tobytes()
    return Tensor(dtype, array.shape, raw)


def framed(header: object, data: bytes = b"") -> bytes:
    """A file of any header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def described(tensors: Mapping[str, Tensor], metadata: object = None) -> dict[str, object]:
    """The true header of tensors that lie in the order given."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, one in tensors.items():
        header[name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [at, at := at + len(one.raw)]}
    return header


def safetensors(tensors: Mapping[str, Tensor], metadata: object = None) -> bytes:
    return framed(described(tensors, metadata), b"".join(one.raw for one in tensors.values()))


def halves(
    table: ModuleTable, component: str, path: str, rank: int = 2, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Random A and B for a module, exact in 16 bits."""
    found = table.find(component, path)
    assert found is not None, path
    generator = np.random.default_rng(seed)
    shapes = found[1].down_shape(rank), found[1].up_shape(rank)
    down, up = (generator.integers(-8, 8, shape).astype(np.float32) for shape in shapes)
    return down / np.float32(4), up / np.float32(4)


def diffusers(table: ModuleTable, modules: Mapping[str, int], dtype: str = "F16") -> dict[str, Tensor]:
    """Tensors in today's diffusers dialect, from `component.path` -> rank."""
    tensors: dict[str, Tensor] = {}
    for seed, (name, rank) in enumerate(modules.items()):
        component, _, path = name.partition(".")
        down, up = halves(table, component, path, rank, seed)
        tensors |= {f"{name}.lora_A.weight": tensor(down, dtype), f"{name}.lora_B.weight": tensor(up, dtype)}
    return tensors


def kohya(
    table: ModuleTable, modules: Mapping[str, tuple[str, str]], rank: int = 2, alpha: Tensor | None = None
) -> dict[str, Tensor]:
    """Tensors in kohya's dialect, from flattened name -> (component, path)."""
    tensors: dict[str, Tensor] = {}
    for seed, (name, (component, path)) in enumerate(modules.items()):
        down, up = halves(table, component, path, rank, seed)
        tensors |= {f"{name}.lora_down.weight": tensor(down), f"{name}.lora_up.weight": tensor(up)}
        if alpha:
            tensors[f"{name}.alpha"] = alpha
    return tensors


def peft(table: ModuleTable, component: str, modules: Mapping[str, int]) -> dict[str, Tensor]:
    """Tensors of a peft folder, from path -> rank."""
    named = diffusers(table, {f"{component}.{path}": rank for path, rank in modules.items()})
    return {f"base_model.model.{name.removeprefix(f'{component}.')}": one for name, one in named.items()}


def peft_folder(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors, {"format": "pt"}))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}))
    return folder


def _attention(path: str, width: int) -> dict[str, Module]:
    square = Module("linear", width, width)
    inner = f"{path}.transformer_blocks.0"
    return {
        f"{path}.proj_in": Module("conv", width, width, (1, 1)),
        f"{path}.proj_out": Module("conv", width, width, (1, 1)),
        f"{inner}.attn1.to_k": square,
        f"{inner}.attn2.to_k": Module("linear", CONTEXT, width),
        f"{inner}.attn2.to_v": Module("linear", CONTEXT, width),
        **{f"{inner}.{name}": square for name in ("attn1.to_q", "attn1.to_v", "attn1.to_out.0", "attn2.to_out.0")},
        f"{inner}.ff.net.0.proj": Module("linear", width, 8 * width),
        f"{inner}.ff.net.2": Module("linear", 4 * width, width),
    }


def _resnet(path: str, width: int) -> dict[str, Module]:
    conv = Module("conv", width, width, (3, 3))
    return {
        f"{path}.conv1": conv,
        f"{path}.conv2": conv,
        f"{path}.time_emb_proj": Module("linear", 32, width),
        f"{path}.conv_shortcut": Module("conv", width, width, (1, 1)),
    }


def _text_encoder(layers: int, width: int) -> dict[str, Module]:
    modules = {}
    for layer in range(layers):
        path = f"text_model.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            modules[f"{path}.self_attn.{name}"] = Module("linear", width, width)
        modules[f"{path}.mlp.fc1"] = Module("linear", width, 4 * width)
        modules[f"{path}.mlp.fc2"] = Module("linear", 4 * width, width)
    return modules


def tiny_table(*, second_encoder: bool = False, family: str = "tiny") -> ModuleTable:
    """A base built like Stable Diffusion's: 2 levels, 2 layers each, attention in the first."""
    unet = {
        "conv_in": Module("conv", 4, 8, (3, 3)),
        "conv_out": Module("conv", 8, 4, (3, 3)),
        "time_embedding.linear_1": Module("linear", 8, 32),
        "time_embedding.linear_2": Module("linear", 32, 32),
        "down_blocks.0.downsamplers.0.conv": Module("conv", 8, 8, (3, 3)),
        "up_blocks.0.upsamplers.0.conv": Module("conv", 8, 8, (3, 3)),
        **_resnet("mid_block.resnets.0", 8),
        **_attention("mid_block.attentions.0", 8),
        **_resnet("mid_block.resnets.1", 8),
    }
    for i in range(2):
        unet |= _resnet(f"down_blocks.0.resnets.{i}", 8) | _attention(f"down_blocks.0.attentions.{i}", 8)
        unet |= _resnet(f"down_blocks.1.resnets.{i}", 8)
    for i in range(3):
        unet |= _resnet(f"up_blocks.0.resnets.{i}", 8)
        unet |= _resnet(f"up_blocks.1.resnets.{i}", 8) | _attention(f"up_blocks.1.attentions.{i}", 8)
    components = {"unet": unet, "text_encoder": _text_encoder(2, CONTEXT)}
    if second_encoder:
        projection = {"text_projection": Module("linear", 20, 20)}
        components["text_encoder_2"] = _text_encoder(3, 20) | projection
    return ModuleTable(family, "sha256:base", components)
