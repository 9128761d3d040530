"""What publishers send: adapter files whole and in parts, peft folders, and what workers later read of such files.

Says what is tried; what is right about a file is looksmith.lora's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors.numpy import save

from benchmarks.fuzzing.parcels import packed, parts_of
from benchmarks.fuzzing.target import Target
from benchmarks.fuzzing.texts import FOLDER
from looksmith.lora import Inspection, Inspector, Limits, LoraError, pack, packaged_table, read_modules, read_weights
from looksmith.lora.header import LENGTH_BYTES
from looksmith.lora.peft_config import peft_config, read_config

STUDIO = packaged_table("studio")
_TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
_FLAT = f"lora_unet_{_TO_Q.replace('.', '_')}"
_MLP = "text_model.encoder.layers.0.mlp.fc1"
_CONFIG = {"peft_type": "LORA", "r": 1, "lora_alpha": 2.0, "rank_pattern": {_TO_Q: 1}, "use_rslora": False}

JSON_WORDS = (
    b'"', b"{", b"}", b"[", b"]", b"[[[[[[[[", b":", b",", b"null", b"true", b"-1", b"1e999", b"NaN", b"Infinity",
    b"\\ud800", b"\\u0000", b"9" * 30, b"0.5", b"\xff\xfe",
)  # fmt: skip
_HEADER_WORDS = (b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b'"F16"', b'"BF16"', b'"F32"', b'"U8"')
_NAME_WORDS = (
    b"unet.", b"text_encoder.", b".lora_A.weight", b".lora_B.weight", b".alpha", b".lora_down.weight", b"lora_te1_",
    b"lora_unet_", b"base_model.model.", b".processor.", b".to_q_lora.down", b"lokr_w1", b"dora_scale", b"hada_w1_a",
    _TO_Q.encode(), _FLAT.encode(), _MLP.encode(), b"F16", b"I64", b"128", b"\n", b" ",
)  # fmt: skip


def _inspected(data: bytes) -> Inspection:
    """As an upload is: in pieces."""
    inspector = Inspector(len(data), STUDIO, limits=Limits())
    for start in range(0, len(data), 1000):
        inspector.feed(data[start : start + 1000])
    return inspector.finish()


def _published(data: bytes) -> object:
    """And read by a worker, which a file that has passed must not surprise."""
    found = _inspected(data)
    file = FOLDER / "adapter.safetensors"
    file.write_bytes(data)
    modules = read_modules(file, STUDIO)
    if [module.name for module in modules] != [module.name for module in found.modules]:
        raise AssertionError("a worker finds other modules in the file than the registry did")
    for weights in read_weights(file, modules):
        if not (np.isfinite(weights.down).all() and np.isfinite(weights.up).all()):
            raise AssertionError(f"{weights.module.name} holds what is no number")
    return found


def _framed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data


def _header(data: bytes) -> object:
    """Header and data, under a length that is right."""
    return _published(_framed(*parts_of(data, 2)))


def _names(data: bytes) -> object:
    """Lines of name, type and shape, as the true header of a file of that many bytes."""
    entries: dict[str, object] = {}
    at = 0
    for line in data.decode("utf-8", "replace").split("\n"):
        name, *rest = line.split(" ")
        dtype, shape = (rest or ["F16"])[0], [int(n) for n in rest[1:5] if n.isascii() and n.isdigit() and len(n) < 5]
        size = int(np.prod(shape, dtype=object)) * {"F32": 4, "I64": 8, "F64": 8, "U8": 1}.get(dtype, 2)
        if size <= 1 << 20:
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at := at + size]}
    return _published(_framed(json.dumps(entries).encode(), bytes(min(at, 4 << 20))))


def _metadata(data: bytes) -> object:
    """Lines of key and value, beside one good module."""
    pairs = (line.partition(" ") for line in data.decode("utf-8", "replace").split("\n"))
    return _published(small_file({}, metadata={key: value for key, _, value in pairs}))


def _config(data: bytes) -> object:
    config = peft_config(read_config(data, "adapter_config.json"), "adapter_config.json")
    again = peft_config(read_config(config.to_json(), "itself"), "itself")
    if again != config:
        raise AssertionError("a config means something else once it has been packed")
    return [(config.rank_of(path), config.alpha_of(path, 4)) for path in (_TO_Q, "", "a" * 300)]


def _folder(data: bytes) -> object:
    config, weights = parts_of(data, 2)
    folder = FOLDER / "peft"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return _published(b"".join(pack(folder).chunks()))


def small_file(halves: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None) -> bytes:
    """A small file; without any ``halves``, in the diffusers dialect."""
    shapes = halves or {f"unet.{_TO_Q}.lora_A.weight": (1, 128), f"unet.{_TO_Q}.lora_B.weight": (128, 1)}
    draws = np.random.default_rng(0)
    tensors = {name: draws.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    return save(tensors, dict(metadata or {"format": "pt"}))


def _pair(name: str, down: str, up: str, **more: Sequence[int]) -> bytes:
    return small_file({f"{name}.{down}.weight": (1, 128), f"{name}.{up}.weight": (128, 1), **more})


FILES = (
    small_file({}),
    _pair(_FLAT, "lora_down", "lora_up"),
    _pair(f"unet.{_TO_Q}", "lora.down", "lora.up"),
    small_file({f"text_encoder.{_MLP}.lora_A.weight": (1, 128), f"text_encoder.{_MLP}.lora_B.weight": (512, 1)}),
    small_file({}, {"lora_adapter_metadata": json.dumps({"unet.r": 1, "unet.lora_alpha": 1})}),
)
_PEFT = _pair(f"base_model.model.{_TO_Q}", "lora_A", "lora_B")


def _split(file: bytes) -> bytes:
    end = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
    return packed(file[LENGTH_BYTES:end], file[end:])


def _listed(file: bytes) -> bytes:
    end = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
    header = json.loads(file[LENGTH_BYTES:end])
    header.pop("__metadata__", None)
    rows = (f"{name} {one['dtype']} {' '.join(map(str, one['shape']))}" for name, one in header.items())
    return "\n".join(rows).encode()


def _target(name: str, parse: Callable[[bytes], object], seeds: Sequence[bytes], words: Sequence[bytes]) -> Target:
    return Target(name, parse, (LoraError,), tuple(seeds), tuple(words), longest=8192, share=2)


TARGETS = (
    _target("adapters/file", _published, [*FILES, _PEFT], (*JSON_WORDS, *_HEADER_WORDS)),
    _target("adapters/header", _header, [_split(file) for file in FILES], (*JSON_WORDS, *_HEADER_WORDS)),
    _target("adapters/names", _names, [_listed(file) for file in (*FILES, _PEFT)], _NAME_WORDS),
    _target(
        "adapters/metadata",
        _metadata,
        [b"ss_clip_skip 2\nss_tag_frequency {}\nss_base_model_version sd15\nmodelspec.prediction_type epsilon"],
        (*JSON_WORDS, b"ss_", b"modelspec.", b"lora_adapter_metadata ", b"looksmith.peft_config ", b"\n"),
    ),
    _target(
        "adapters/config", _config, [json.dumps(_CONFIG).encode()], (*JSON_WORDS, b'"alpha_pattern"', b"^", b"\\.")
    ),
    _target("adapters/folder", _folder, [packed(json.dumps(_CONFIG).encode(), _PEFT)], (*JSON_WORDS, *_HEADER_WORDS)),
)
