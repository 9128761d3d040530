"""Adapter files for the studio's base, good and hostile, and what each hostile one is refused with."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterable

import numpy as np

from looksmith.lora import packaged_table
from tests.unit.looksmith.lora.lora_files import Tensor, described, diffusers, framed, kohya, peft, safetensors, tensor

STUDIO = packaged_table("studio")
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"

#: Two modules that any rule can be broken on.
PAIRS = diffusers(STUDIO, {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 2})
DOWN, UP = f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight"


def good_lora(seed: int, rank: int = 4) -> bytes:
    """Random weights on every attention layer, strong enough to show and weak enough to leave a picture."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    for path, module in STUDIO.components["unet"].items():
        if ".attn" in path:
            tensors[f"unet.{path}.lora_A.weight"] = tensor(random.normal(0, 0.15, module.down_shape(rank)))
            tensors[f"unet.{path}.lora_B.weight"] = tensor(random.normal(0, 0.15, module.up_shape(rank)))
    return safetensors(tensors)


def pickled() -> bytes:
    return pickle.dumps({"unet.lora_A.weight": [0.0] * 100})


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
    return file.getvalue()


def with_length(length: int) -> bytes:
    return length.to_bytes(8, "little") + safetensors(PAIRS)[8:]


def with_braces(entries: Iterable[bytes]) -> bytes:
    return b"{" + b",".join(entries) + b"}"


def with_entry(name: str, **fields: object) -> bytes:
    """The two modules, with a header that lies about one tensor."""
    header = described(PAIRS)
    entry = header[name]
    assert isinstance(entry, dict)
    return framed({**header, name: entry | fields}, b"".join(one.raw for one in PAIRS.values()))


def with_value(value: float) -> bytes:
    values = np.zeros(PAIRS[DOWN].shape)
    values[1, -1] = value
    return safetensors(PAIRS | {DOWN: tensor(values, "F16")})


def with_tensors(tensors: dict[str, Tensor]) -> bytes:
    return safetensors(PAIRS | tensors)


def duplicate_keys() -> bytes:
    text = json.dumps(described(PAIRS))
    first = text[1 : text.index("}") + 1]
    return framed(f"{{{first}, {text[1:]}".encode(), b"".join(one.raw for one in PAIRS.values()))


def for_sd15() -> bytes:
    """What a LoRA of Stable Diffusion 1.5 has in its middle: 1280 wide, text embeddings of 768."""
    shapes = {f"unet.{TO_Q}": (1280, 1280), f"unet.{TO_K}": (768, 1280)}
    tensors: dict[str, Tensor] = {}
    for name, (wide, high) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = tensor(np.ones((2, wide)))
        tensors[f"{name}.lora_B.weight"] = tensor(np.ones((high, 2)))
    return safetensors(tensors)


def full_of_faults() -> bytes:
    """As many faults as are reported at once, of five kinds, under names as long as names may be."""
    other = TO_Q.replace("attn2", "attn1")
    tensors = {f"unet.{'h' * 230}.lora_A.weight": tensor([[1.0]]), UP: tensor(np.ones((128, 3)))}
    tensors |= diffusers(STUDIO, {f"unet.{other}": 2}, "F64")
    tensors |= diffusers(STUDIO, {f"unet.{other.replace('to_q', 'to_k')}": 129})
    for i in range(20):
        name = f"unet.{i:03d}{'x' * 228}"
        tensors |= {f"{name}.lora_A.weight": tensor([[1.0]]), f"{name}.lora_B.weight": tensor([[1.0]])}
    return with_tensors(tensors)


#: What is wrong -> the file, and the code that says so.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "pickle": (pickled(), "E_MAGIC"),
    "zip": (zipped(), "E_MAGIC"),
    "cut in its data": (safetensors(PAIRS)[:-100], "E_OFFSETS"),
    "header longer than the file": (with_length(1 << 20), "E_HEADER_LEN"),
    "header of 2^63 bytes": (with_length(1 << 63), "E_HEADER_LEN"),
    "header of 2^64 - 1 bytes": (with_length((1 << 64) - 1), "E_HEADER_LEN"),
    "header that is no UTF-8": (framed(b'{"\xff\xfe": {}}'), "E_JSON"),
    "header nested without end": (framed(b'{"a":' + b"[" * 100_000), "E_JSON"),
    "header of 400 000 tensors": (framed(with_braces(b'"%d":{}' % i for i in range(400_000))), "E_TENSOR_COUNT"),
    "no tensors": (framed({}), "E_TENSOR_COUNT"),
    "duplicate keys": (duplicate_keys(), "E_JSON"),
    "overlapping tensors": (with_entry(UP, data_offsets=[0, len(PAIRS[UP].raw)]), "E_OFFSETS"),
    "empty tensor that aliases another": (with_entry(UP, shape=[0, 2], data_offsets=[8, 8]), "E_EMPTY_TENSOR"),
    "offsets beyond the file": (with_entry(UP, data_offsets=[1 << 40, (1 << 40) + len(PAIRS[UP].raw)]), "E_OFFSETS"),
    "offsets that run backwards": (with_entry(UP, data_offsets=[512, 0]), "E_OFFSETS"),
    "trailing bytes": (safetensors(PAIRS) + b"MZ", "E_OFFSETS"),
    "name that is a path": (with_tensors({"../../etc/passwd": tensor([1.0])}), "E_NAME"),
    "NaN": (with_value(math.nan), "E_NONFINITE"),
    "infinity": (with_value(math.inf), "E_NONFINITE"),
    "int8 weights": (with_tensors({DOWN: Tensor("I8", (2, 128), bytes(256))}), "E_DTYPE"),
    "rank 129": (safetensors(diffusers(STUDIO, {f"unet.{TO_Q}": 129})), "E_RANK"),
    "half without its other half": (safetensors({DOWN: PAIRS[DOWN]}), "E_PAIR"),
    "module that the base lacks": (safetensors({k.replace("mid_", "end_"): t for k, t in PAIRS.items()}), "E_MODULE"),
    "wrong shape": (with_tensors({DOWN: tensor(np.ones((2, 96)))}), "E_SHAPE"),
    "LoRA for sd15": (for_sd15(), "E_BASE"),
    "LoRA for a transformer": (safetensors({f"transformer.{k}": t for k, t in PAIRS.items()}), "E_BASE"),
    "DoRA": (with_tensors({f"unet.{TO_Q}.lora_magnitude_vector": tensor([1.0])}), "E_UNSUPPORTED"),
    "LoHa": (safetensors({"lora_unet_a.hada_w1_a": tensor([1.0])}), "E_UNSUPPORTED"),
    "LoKr": (safetensors({"lora_unet_a.lokr_w1": tensor([1.0])}), "E_UNSUPPORTED"),
    "peft without adapter_config": (safetensors(peft(STUDIO, "unet", {TO_Q: 2})), "E_ALPHA_MISSING"),
    "two dialects at once": (with_tensors(kohya(STUDIO, {"lora_unet_conv_in": ("unet", "conv_in")})), "E_FORMAT"),
    "alpha of a billion": (
        safetensors(PAIRS, {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1e9}'}), "E_ALPHA",
    ),
    "full of faults": (full_of_faults(), "E_PAIR"),
}  # fmt: skip
