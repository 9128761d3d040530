"""Hostile adapter files by the code that must refuse them: a good one with one lie in it, or none at all.

For unit tests and for tests of running servers alike; knows only how files are written, and not how they are read.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from looksmith.lora import Code, packaged_table
from tests.unit.looksmith.lora.lora_files import Tensor, described, diffusers, framed, kohya, peft, safetensors, tensor

TABLES = {family: packaged_table(family) for family in ("studio", "sd15", "sd2", "sdxl")}
STUDIO, SDXL = TABLES["studio"], TABLES["sdxl"]

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"
FC1 = "text_model.encoder.layers.0.mlp.fc1"
FLAT = f"lora_unet_{TO_Q.replace('.', '_')}"
FLAT_SAI = FLAT.replace("mid_block_attentions_0", "middle_block_1")
HEADER_ROOM = 4 << 20  # bytes that a header may have

#: Two modules that any rule can be broken on: a file that passes.
PAIRS = diffusers(STUDIO, {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 2})
DATA = b"".join(one.raw for one in PAIRS.values())
DOWN, UP = f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight"
KOHYA = kohya(STUDIO, {FLAT: ("unet", TO_Q)}, alpha=tensor(1.0))


@dataclass(frozen=True)
class Hostile:
    """A file that must be refused with a code when it is published for a family."""

    code: Code
    build: Callable[[], bytes]
    family: str = "studio"


def ones(*shape: int, dtype: str = "F16") -> Tensor:
    return tensor(np.ones(shape), dtype)


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"unet.lora_A.weight": [0.0] * 100}, protocol)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(2))
    return file.getvalue()


def with_length(length: int) -> bytes:
    return length.to_bytes(8, "little") + safetensors(PAIRS)[8:]


def with_text(change: Callable[[str], str | bytes]) -> bytes:
    """The two modules under a header whose text was changed."""
    text = change(json.dumps(described(PAIRS)))
    return framed(text if isinstance(text, bytes) else text.encode(), DATA)


def with_entry(name: str = DOWN, **fields: object) -> bytes:
    """The two modules, with a header that lies about one tensor."""
    header = described(PAIRS)
    entry = header[name]
    assert isinstance(entry, dict)
    return framed({**header, name: entry | fields}, DATA)


def with_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors({**PAIRS, **tensors})


def with_metadata(metadata: object) -> bytes:
    return safetensors(PAIRS, metadata)


def with_config(**fields: object) -> bytes:
    """The two modules with the LoraConfig that diffusers writes; fields of another component name it."""
    config = {"r": 2, "lora_alpha": 2, **fields}
    named = {key if "." in key else f"unet.{key}": value for key, value in config.items()}
    return with_metadata({"lora_adapter_metadata": json.dumps(named)})


def packed(text: str = "", **fields: object) -> bytes:
    """A packed peft folder, as if another program had packed it, with a config of any kind."""
    config = text or json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **fields})
    return safetensors(peft(STUDIO, "unet", {TO_Q: 2, TO_K: 2}), {"looksmith.peft_config": config})


def with_alpha(alpha: Tensor) -> bytes:
    return safetensors({**KOHYA, f"{FLAT}.alpha": alpha})


def with_value(value: float, name: str = DOWN, dtype: str = "F16", at: tuple[int, int] = (1, -1)) -> bytes:
    values = np.zeros(PAIRS[name].shape)
    values[at] = value
    return with_tensors({name: tensor(values, dtype)})


def with_bits(bits: bytes, dtype: str) -> bytes:
    """The last number of the first tensor has these bits."""
    shape = PAIRS[DOWN].shape
    return with_tensors({DOWN: Tensor(dtype, shape, bytes((math.prod(shape) - 1) * len(bits)) + bits)})


def pair(name: str, down: tuple[int, ...], up: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": ones(*down), f"{name}.lora_B.weight": ones(*up)}


def shaped(down: tuple[int, ...], up: tuple[int, ...], path: str = TO_Q) -> bytes:
    return safetensors(pair(f"unet.{path}", down, up))


def named(*names: str) -> bytes:
    """Tensors of one number under these names, beside the two modules."""
    return with_tensors({name: ones(1) for name in names})


def renamed(old: str, new: str) -> bytes:
    return safetensors({name.replace(old, new): one for name, one in PAIRS.items()})


def braced(entries: Iterable[bytes]) -> bytes:
    return framed(b"{" + b",".join(entries) + b"}", bytes(2))


def first_twice(text: str) -> str:
    return f"{{{text[1 : text.index('}') + 1]}, {text[1:]}"


def swapped_offsets() -> bytes:
    header = described(PAIRS)
    first, second = header[DOWN], header[UP]
    assert isinstance(first, dict) and isinstance(second, dict)
    middle = {"data_offsets": [first["data_offsets"][1] - 2, second["data_offsets"][1] - 2]}
    return framed({**header, UP: second | middle}, DATA)


def hole(*, at_start: bool) -> bytes:
    gap = {"gap": ones(1)}
    header = described({**gap, **PAIRS} if at_start else {**PAIRS, **gap, "unet.z": ones(1)})
    del header["gap"]
    return framed(header, DATA + bytes(4 if not at_start else 2))


def many_tensors(count: int, name: bytes = b"t%d") -> bytes:
    entry = b'"%s":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    return framed(b"{" + b",".join(entry % (name % i, i, i + 1) for i in range(count)) + b"}", bytes(count))


def many_empty_tensors() -> bytes:
    """What the safetensors library takes seconds to accept."""
    return braced(b'"t%d":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}' % i for i in range(400_000))


def many_misfits() -> bytes:
    """As many modules as a header has room for, under names that take long to read and that no base has."""
    tensors: dict[str, Tensor] = {}
    for i in range(3000):
        tensors |= pair(f"unet.{'to_q.' * 40}{i:04d}", (1, 1), (1, 1))
    return safetensors(tensors)


def filled(begin: str, end: str, piece: str = "x", bytes_in_all: int = HEADER_ROOM) -> bytes:
    """A header as long as headers may be: begin, many times a piece, end."""
    room = bytes_in_all - len(begin.encode()) - len(end.encode())
    return framed((begin + piece * (room // len(piece.encode())) + end).encode(), bytes(2))


def full_of_faults() -> bytes:
    """As many faults as are reported at once, of five kinds, under names as long as names may be."""
    other = TO_Q.replace("attn2", "attn1")
    tensors = {f"unet.{'h' * 230}.lora_A.weight": tensor([[1.0]]), UP: tensor(np.ones((128, 3)))}
    tensors |= diffusers(STUDIO, {f"unet.{other}": 2}, "F64")
    tensors |= diffusers(STUDIO, {f"unet.{other.replace('to_q', 'to_k')}": 129})
    for i in range(20):
        tensors |= pair(f"unet.{i:03d}{'x' * 228}", (1, 1), (1, 1))
    return with_tensors(tensors)


def flat_pair(name: str, down: tuple[int, ...], up: tuple[int, ...]) -> bytes:
    return safetensors({f"{name}.lora_down.weight": ones(*down), f"{name}.lora_up.weight": ones(*up)})


LISTS_IN_LISTS = ("[" * 400 + "]" * 400 + ",") * 1300  # a megabyte of text, tens of them in Python
ADAPTED = f"unet.{TO_Q}"

#: By code, what is wrong -> the file. Large ones are made when they are needed.
_FOR_STUDIO: Mapping[Code, Mapping[str, bytes | Callable[[], bytes]]] = {
    Code.E_SIZE: {
        "one byte": b"{",
        "a length and nothing else": (2).to_bytes(8, "little"),
        "cut in its length": safetensors(PAIRS)[:5],
    },
    Code.E_MAGIC: {
        "pickle": pickled(2),
        "pickle of a newer protocol": pickled(4),
        "zip": zipped(),
        "GGUF": b"GGUF\x03\x00\x00\x00" + bytes(100),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
        "web page": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "byte order mark": with_text(lambda text: b"\xef\xbb\xbf" + text.encode()),
        "header in UTF-16": with_text(lambda text: text.encode("utf-16")),
        "header that is a list": framed([]),
        "header that begins with a blank": with_text(lambda text: " " + text),
    },
    Code.E_HEADER_LEN: {
        "header longer than the file": with_length(1 << 20),
        "header of 2^63 bytes": with_length(1 << 63),
        "header of 2^64 - 1 bytes": with_length((1 << 64) - 1),
        "header of no bytes": with_length(0),
        "length in the other byte order": (600).to_bytes(8, "big") + safetensors(PAIRS)[8:],
        "cut in its header": safetensors(PAIRS)[:100],
        "zeros": bytes(1000),
        "gzip": gzip.compress(safetensors(PAIRS), mtime=0),
        "JSON without a length": json.dumps(described(PAIRS)).encode(),
        "pickle of the first protocol": pickled(0),
        "header of one byte too many": lambda: framed(b"{}".ljust(HEADER_ROOM + 1), DATA),
        "400 000 empty tensors": many_empty_tensors,
    },
    Code.E_JSON: {
        "header that is no UTF-8": framed(b'{"\xff\xfe": {}}'),
        "header in UTF-16 without a mark": with_text(lambda text: text.encode("utf-16-le")),
        "header that ends early": with_text(lambda text: text[:-1]),
        "header with something behind it": with_text(lambda text: text + "{}"),
        "header with a comment": with_text(lambda text: text[:-1] + "/* */}"),
        "header with a zero behind it": with_text(lambda text: text + "\0"),
        "header nested without end": framed(b'{"a":' + b"[" * 10_000),
        "duplicate tensor": with_text(first_twice),
        "duplicate field": with_text(lambda text: text.replace('"dtype"', '"dtype": "U8", "dtype"', 1)),
        "duplicate field, one of them escaped": with_text(
            lambda text: text.replace('"dtype"', '"\\u0064type": "U8", "dtype"', 1)
        ),
        "duplicate metadata": with_text(lambda text: '{"__metadata__": {}, "__metadata__": {},' + text[1:]),
        "duplicate key that is half a surrogate pair": framed(b'{"\\ud800": 1, "\\ud800": 2}'),
        "30 000 keys, one of them twice": lambda: braced([*(b'"%d":0' % i for i in range(29_998)), b'"7":0']),
        "NaN in the header": with_text(lambda text: text.replace("[2,", "[NaN,", 1)),
        "number of 5000 digits": with_text(lambda text: text.replace("[2,", f"[{'2' * 5000},", 1)),
        "line break in a name": with_text(lambda text: text.replace("unet", "un\net", 1)),
        "tensor that is null": framed({**described(PAIRS), "unet.x": None}, DATA),
        "tensor without a type": framed({"a": {"shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
        "tensor with strides": with_entry(stride=[128, 1]),
        "size that is true": with_entry(shape=[True, 256]),
        "size that is a float": with_entry(shape=[2.0, 128]),
        "sizes that are negative": with_entry(shape=[-2, -128]),
        "size of 2^64 + 2": with_entry(shape=[(1 << 64) + 2, 128]),
        "shape that is text": with_entry(shape="2x128"),
        "shape of nine dimensions": with_entry(shape=[1] * 7 + [2, 128]),
        "offset that is false": with_entry(data_offsets=[False, 512]),
        "offset that is a float": with_entry(data_offsets=[0, 512.0]),
        "offset that is negative": with_entry(data_offsets=[-512, 0]),
        "offset of 2^64": with_entry(data_offsets=[1 << 64, (1 << 64) + 512]),
        "three offsets": with_entry(data_offsets=[0, 512, 512]),
        "config with a duplicate key": with_metadata({"lora_adapter_metadata": '{"unet.r": 2, "unet.r": 4}'}),
        "config with an alpha of Infinity": packed('{"r": 2, "lora_alpha": Infinity}'),
        "config that is cut": packed('{"r": 2'),
        "config of half a million lists": lambda: packed(
            f'{{"r": 2, "lora_alpha": 2, "rank_pattern": [{LISTS_IN_LISTS}0]}}'
        ),
    },
    Code.E_METADATA: {
        "metadata that are a number": with_metadata({"rank": 2}),
        "metadata that are null": with_metadata({"note": None}),
        "metadata that are nested": with_metadata({"ss": {"rank": "2"}}),
        "metadata that are a list": with_metadata(["note"]),
        "half a surrogate pair in metadata": with_metadata({"note": "\ud800"}),
        "half a surrogate pair in the name of metadata": with_metadata({"\udfff": "note"}),
        "metadata of more than a megabyte": lambda: with_metadata({"ssmd_cover_images": "A" * (1 << 20)}),
        "megabytes of metadata, wide by one emoji": lambda: filled('{"__metadata__": {"a": "', '\U0001f600"}}'),
        "megabytes of metadata, wide by one escape": lambda: filled('{"__metadata__": {"a": "', '\\ud83d\\ude00"}}'),
    },
    Code.E_TENSOR_COUNT: {
        "no tensors": framed({}),
        "only metadata": framed({"__metadata__": {"format": "pt"}}),
        "6001 tensors": lambda: many_tensors(6001),
        "300 000 tensors": lambda: braced(b'"%d":{}' % i for i in range(300_000)),
        "a million lists in lists": lambda: filled('{"a": [', "[]]}", "[" * 300 + "]" * 300 + ","),
        "a million numbers": lambda: filled('{"a": [', "0]}", "0,"),
        "300 000 fields in one tensor": lambda: braced(
            [b'"a":{' + b",".join(b'"%d":0' % i for i in range(300_000)) + b"}"]
        ),
        "a million empty strings": lambda: filled('{"a": [', '""]}', '"",'),
    },
    Code.E_NAME: {
        "name that climbs out of a folder": named("../../etc/passwd"),
        "name that is a path": named("/etc/passwd"),
        "name for Windows": named("..\\..\\boot.ini"),
        "name with a zero": named("unet\0.lora_A.weight"),
        "name that clears a terminal": named("\x1b[2Junet.lora_A.weight"),
        "name of two lines": named("unet.a\nunet.b"),
        "name with a blank": named("unet. a.lora_A.weight"),
        "name in look-alike letters": named("un\u0435t.a.lora_A.weight"),
        "name that reads backwards": named("\u202eunet.a.lora_A.weight"),
        "name that is half a surrogate pair": named("\ud800"),
        "name without letters": named(""),
        "name of 257 letters": named("a" * 257),
        "name of megabytes, wide by one emoji": lambda: filled('{"', '\U0001f600": {}}', "\x7f"),
    },
    Code.E_OFFSETS: {
        "cut in its data": safetensors(PAIRS)[:-100],
        "cut before its data": safetensors(PAIRS)[: -len(DATA)],
        "cut by one byte": safetensors(PAIRS)[:-1],
        "trailing bytes": safetensors(PAIRS) + b"MZ",
        "another file behind it": safetensors(PAIRS) + safetensors(PAIRS),
        "overlapping tensors": swapped_offsets(),
        "two tensors in the same bytes": with_entry(UP, shape=[2, 128], data_offsets=[0, 512]),
        "last bytes twice": framed({**described(PAIRS), "unet.x": described(PAIRS)[list(PAIRS)[-1]]}, DATA),
        "hole at the start": hole(at_start=True),
        "hole in the middle": hole(at_start=False),
        "offsets beyond the file": with_entry(UP, data_offsets=[1 << 40, (1 << 40) + len(PAIRS[UP].raw)]),
        "offsets that run backwards": with_entry(UP, data_offsets=[512, 0]),
        "shape larger than its bytes": with_entry(shape=[2, 129]),
        "shape of 2^124 numbers": with_entry(shape=[1 << 62, 1 << 62]),
        "type wider than its bytes": with_entry(dtype="F32"),
    },
    Code.E_EMPTY_TENSOR: {
        "empty tensor that aliases another": with_entry(UP, shape=[0, 2], data_offsets=[8, 8]),
        "empty tensor at the end": framed(
            {**described(PAIRS), "unet.x": {"dtype": "F16", "shape": [0], "data_offsets": [len(DATA)] * 2}}, DATA
        ),
        "empty tensor of 2^62 columns": with_entry(shape=[0, 1 << 62], data_offsets=[0, 0]),
        "tensor without bytes": with_entry(data_offsets=[512, 512]),
        "rank 0": safetensors({DOWN: Tensor("F16", (0, 128), b""), UP: Tensor("F16", (128, 0), b"")}),
    },
    Code.E_DTYPE: {
        "type that nobody knows": with_entry(dtype="F12"),
        "type in small letters": with_entry(dtype="f16"),
        "type that is a list": with_entry(dtype=["F16"]),
        "type that is half a surrogate pair": with_entry(dtype="\ud800"),
        "int8 weights": with_tensors({DOWN: Tensor("I8", (2, 128), bytes(256))}),
        "float8 weights": with_tensors({DOWN: Tensor("F8_E4M3", (2, 128), bytes(256))}),
        "float64 weights": safetensors(diffusers(STUDIO, {ADAPTED: 2}, "F64")),
        "weights of true and false": with_tensors({DOWN: Tensor("BOOL", (2, 128), bytes(256))}),
        "alpha in a byte": with_alpha(tensor(1, "U8")),
    },
    Code.E_FORMAT: {
        "two dialects at once": with_tensors(kohya(STUDIO, {"lora_unet_conv_in": ("unet", "conv_in")})),
        "peft and diffusers at once": with_tensors(peft(STUDIO, "unet", {TO_Q: 2})),
        "tensor that belongs to nothing": named("unet.extra"),
        "whole checkpoint": safetensors({f"{name}.weight": ones(4) for name in ("model.diffusion_model.out", "vae.a")}),
        "peft's name in memory": renamed(".weight", ".default.weight"),
        "names without a component": renamed("unet.", ""),
        "fourth text encoder": named("lora_te4_text_model_encoder_layers_0_mlp_fc1.alpha"),
        "kohya with a config of diffusers": safetensors(KOHYA, {"lora_adapter_metadata": "{}"}),
        "kohya with a config of peft": safetensors(KOHYA, {"looksmith.peft_config": "{}"}),
        "diffusers with a config of peft": with_metadata({"looksmith.peft_config": '{"r": 2, "lora_alpha": 4}'}),
        "config that is a list": with_metadata({"lora_adapter_metadata": "[]"}),
        "config of another component": with_config(**{"vae.r": 2}),
        "config with rsLoRA in words": with_config(use_rslora="yes"),
        "config with patterns in a list": packed(rank_pattern=[2]),
        "megabytes of names in no dialect": lambda: many_tensors(6000, b"._bo" * 60 + b"%d"),
    },
    Code.E_UNSUPPORTED: {
        "DoRA": named(f"{ADAPTED}.lora_magnitude_vector"),
        "DoRA by kohya": safetensors({**KOHYA, f"{FLAT}.dora_scale": ones(128, 1)}),
        "LoHa": safetensors({f"{FLAT}.hada_{half}": ones(2, 2) for half in ("w1_a", "w1_b", "w2_a", "w2_b")}),
        "LoKr": safetensors({f"{FLAT}.lokr_w1": ones(2, 2), f"{FLAT}.lokr_w2": ones(64, 64)}),
        "OFT": safetensors({f"oft_unet_{TO_Q.replace('.', '_')}.oft_blocks": ones(2, 2, 2)}),
        "BOFT": safetensors({f"{ADAPTED}.boft_R.weight": ones(1, 2, 2, 2)}),
        "GLoRA": safetensors({f"{FLAT}.{half}.weight": ones(2, 2) for half in ("a1", "a2", "b1", "b2")}),
        "IA3": safetensors({f"{FLAT}.weight": ones(128), f"{FLAT}.on_input": ones(1)}),
        "full differences": safetensors({f"{FLAT}.diff": ones(128, 128)}),
        "differences of biases": safetensors({**KOHYA, f"{FLAT}.diff_b": ones(128)}),
        "Tucker decomposition": safetensors({**KOHYA, f"{FLAT}.lora_mid.weight": ones(2, 2, 3, 3)}),
        "bias beside B": named(f"{ADAPTED}.lora_B.bias"),
        "LoRA of an embedding": named("text_encoder.text_model.embeddings.token_embedding.lora_embedding_A"),
        "module in full": named("base_model.model.conv_out.modules_to_save.weight"),
        "textual inversion": safetensors({"emb_params": ones(4, 128)}),
        "textual inversion for two encoders": safetensors({"clip_l": ones(4, 768), "clip_g": ones(4, 1280)}),
        "Control-LoRA": safetensors({"lora_controlnet": ones(1), "input_blocks.0.0.up": ones(1)}),
        "config of DoRA": with_config(use_dora=True),
        "config of PiSSA": packed(init_lora_weights="pissa"),
        "config of VeRA": packed(peft_type="VERA"),
        "config with trained biases": packed(bias="all"),
        "config with modules in full": packed(modules_to_save=["conv_out"]),
        "config with what is not known yet": packed(use_next_years_method=True),
        "config with an expression that never ends": packed(rank_pattern={"(a+)+$": 2}),
        "config with an expression": with_config(alpha_pattern={".*to_q": 4}),
        "config with a name of a megabyte": lambda: packed(rank_pattern={"a" * 1_000_000 + "!": 2}),
        "config with a good name of a megabyte": lambda: packed(rank_pattern={"a." * 500_000 + "a": 2}),
    },
    Code.E_ALPHA_MISSING: {
        "peft without adapter_config": safetensors(peft(STUDIO, "unet", {TO_Q: 2})),
        "peft config without alpha": packed('{"r": 2}'),
        "peft config with an alpha of null": packed(lora_alpha=None),
        "config without alpha": with_metadata({"lora_adapter_metadata": '{"unet.r": 2}'}),
        "config that is empty": with_metadata({"lora_adapter_metadata": "{}"}),
        "config of the other component": with_metadata(
            {"lora_adapter_metadata": '{"text_encoder.r": 2, "text_encoder.lora_alpha": 2}'}
        ),
    },
    Code.E_ALPHA: {
        "alpha of a billion": with_config(lora_alpha=1e9),
        "alpha of 1e999": with_metadata({"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1e999}'}),
        "alpha of 400 digits": packed(lora_alpha=10**400),
        "alpha of 0 in a config": packed(lora_alpha=0),
        "alpha below 0 in a config": packed(lora_alpha=-2),
        "alpha that is true": packed(lora_alpha=True),
        "alpha in words": packed(lora_alpha="2"),
        "alpha too small for any number": packed(lora_alpha=5e-324),
        "alpha of a billion for one module": with_config(alpha_pattern={"to_q": 1e9}),
        "alpha too large by rsLoRA": packed(lora_alpha=128, use_rslora=True),
        "tensor with an alpha below 0": with_alpha(tensor(-1.0)),
        "tensor with a whole alpha below 0": with_alpha(tensor(-1, "I64")),
        "tensor with an alpha of 1e300": with_alpha(tensor(1e300, "F64")),
        "tensor with an alpha of 2^62": with_alpha(tensor(1 << 62, "I64")),
        "tensor with a subnormal alpha": with_alpha(tensor(1e-40, "F32")),
        "tensor with the smallest alpha": with_alpha(tensor(6e-8, "F16")),
        "tensor with two alphas": with_alpha(ones(2)),
    },
    Code.E_PAIR: {
        "A without B": safetensors({DOWN: PAIRS[DOWN]}),
        "B without A": safetensors({UP: PAIRS[UP]}),
        "alpha without A and B": safetensors({**KOHYA, "lora_unet_conv_in.alpha": tensor(1.0)}),
        "A and B of different modules": safetensors({DOWN: PAIRS[DOWN], UP.replace("to_q", "to_k"): PAIRS[UP]}),
        "A and B of different ranks": with_tensors({UP: ones(128, 3)}),
        "A twice, by its old and its new name": named(f"{ADAPTED}.lora.down.weight"),
        "one module under two block names": safetensors(kohya(STUDIO, dict.fromkeys((FLAT, FLAT_SAI), ("unet", TO_Q)))),
        "one module with and without text_model": safetensors(
            pair(f"text_encoder.{FC1}", (2, 128), (512, 2))
            | pair(f"text_encoder.{FC1.removeprefix('text_model.')}", (2, 128), (512, 2))
        ),
        "full of faults": full_of_faults(),
        "6000 halves": lambda: many_tensors(6000, b"unet.a.%d.lora_A.weight"),
    },
    Code.E_RANK: {
        "rank 129": safetensors(diffusers(STUDIO, {ADAPTED: 129})),
        "rank 2000 on one module of two": lambda: with_tensors(diffusers(STUDIO, {f"unet.{CONV}": 2000})),
        "config that lies about the rank": with_config(r=4),
        "config that lies about one rank": with_config(rank_pattern={"to_q": 4}),
        "packed config that lies about the rank": packed(r=128),
        "config of rank 0": packed(r=0),
        "config of rank true": packed(r=True),
        "config of half a rank": packed(r=2.5),
        "config without a rank": packed('{"lora_alpha": 2}'),
        "config of a rank of 400 digits": packed(r=10**400),
    },
    Code.E_BASE: {
        "LoRA for sd15": shaped((2, 768), (1280, 2), TO_K),
        "LoRA for a transformer": safetensors({f"transformer.{name}": one for name, one in PAIRS.items()}),
        "LoRA for FLUX by kohya": flat_pair("lora_unet_double_blocks_0_img_attn_qkv", (2, 3072), (9216, 2)),
        "LoRA for FLUX by its makers": named("double_blocks.0.processor.qkv_lora1.down.weight"),
        "LoRA for FLUX by ai-toolkit": named("diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight"),
        "LoRA for SD3": named("transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
        "third text encoder": flat_pair("lora_te3_encoder_block_0_layer_0_SelfAttention_q", (2, 4096), (4096, 2)),
        "LyCORIS of a transformer": named("lycoris_transformer_blocks_0_attn_to_q.alpha"),
        "encoder that the base lacks": safetensors(pair(f"text_encoder_2.{FC1}", (2, 1280), (5120, 2))),
    },
    Code.E_MODULE: {
        "module that the base lacks": renamed("mid_", "end_"),
        "layer that the base lacks": safetensors(pair(f"text_encoder.{FC1.replace('0', '99')}", (2, 128), (512, 2))),
        "flattened module that the base lacks": flat_pair("lora_unet_nowhere_at_all", (2, 128), (128, 2)),
        "UNet's module in the text encoder": renamed("unet.", "text_encoder."),
        "text encoder's module in the UNet": safetensors(pair(f"unet.{FC1}", (2, 128), (512, 2))),
        "module of two dots": renamed("mid_block.", "mid_block.."),
        "text_model in the UNet": renamed("unet.", "unet.text_model."),
        "megabytes of modules that the base lacks": many_misfits,
    },
    Code.E_SHAPE: {
        "wrong width": with_tensors({DOWN: ones(2, 96)}),
        "wrong height": with_tensors({UP: ones(96, 2)}),
        "A and B swapped": with_tensors({DOWN: PAIRS[UP], UP: PAIRS[DOWN]}),
        "A transposed": with_tensors({DOWN: ones(128, 2)}),
        "A in one dimension": with_tensors({DOWN: ones(256)}),
        "A that is one number": with_tensors({DOWN: ones()}),
        "linear layer as a convolution": shaped((2, 128, 1, 1), (128, 2, 1, 1)),
        "kernel too small": shaped((2, 128, 1, 1), (128, 2, 1, 1), CONV),
        "kernel too large": shaped((2, 128, 5, 5), (128, 2, 1, 1), CONV),
        "kernel in B": shaped((2, 128, 3, 3), (128, 2, 3, 3), CONV),
        "convolution flattened": shaped((2, 128 * 9), (128, 2), CONV),
        "encoder of another width": safetensors(pair(f"text_encoder.{FC1}", (2, 768), (3072, 2))),
    },
    Code.E_NONFINITE: {
        "NaN": with_value(math.nan),
        "infinity": with_value(math.inf),
        "minus infinity in B": with_value(-math.inf, UP),
        "NaN as the first number": with_value(math.nan, at=(0, 0)),
        "NaN in BF16": with_value(math.nan, dtype="BF16"),
        "infinity in F32": with_value(math.inf, dtype="F32"),
        "NaN that signals": with_bits(bytes.fromhex("010080ff"), "F32"),
        "NaN by its last bit": with_bits(bytes.fromhex("017c"), "F16"),
        "tensor with an alpha of NaN": with_alpha(tensor(math.nan)),
        "tensor with an alpha of infinity": with_alpha(tensor(math.inf, "F64")),
    },
}  # fmt: skip

#: The same for other families, whose module tables are larger and whose adapters are mistaken for each other's.
_FOR_OTHERS: Mapping[str, Mapping[Code, Mapping[str, bytes]]] = {
    "sd15": {
        Code.E_BASE: {
            "SDXL LoRA for sd15": shaped((2, 2048), (1280, 2), TO_K),
            "SD 2 LoRA for sd15": shaped((2, 1024), (1280, 2), TO_K),
            "SDXL's second encoder for sd15": flat_pair(
                "lora_te2_text_model_encoder_layers_0_mlp_fc1", (2, 1280), (5120, 2)
            ),
        },
        Code.E_MODULE: {
            "SDXL's deeper block for sd15": flat_pair(
                "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q", (2, 1280), (1280, 2)
            ),
        },
        Code.E_SHAPE: {"studio LoRA for sd15": flat_pair(FLAT, (2, 128), (128, 2))},
    },
    "sd2": {
        Code.E_BASE: {
            "SD 1 LoRA for sd2": shaped((2, 768), (1280, 2), TO_K),
            "SDXL LoRA for sd2": shaped((2, 2048), (1280, 2), TO_K),
        },
        Code.E_MODULE: {
            "OpenCLIP's last layer, which SD 2 leaves out": flat_pair(
                "lora_te_text_model_encoder_layers_23_mlp_fc1", (2, 1024), (4096, 2)
            ),
        },
        Code.E_SHAPE: {
            "SD 1's projection for sd2": shaped((2, 320, 1, 1), (320, 2, 1, 1), "down_blocks.0.attentions.0.proj_in"),
            "SD 1's encoder for sd2": flat_pair("lora_te_text_model_encoder_layers_0_mlp_fc1", (2, 768), (3072, 2)),
        },
    },
    "sdxl": {
        Code.E_BASE: {"SD 1 LoRA for sdxl": shaped((2, 768), (1280, 2), TO_K)},
        Code.E_MODULE: {
            "SD 1's last block for sdxl": flat_pair(
                "lora_unet_input_blocks_10_0_in_layers_2", (2, 1280, 3, 3), (1280, 2, 1, 1)
            ),
        },
        Code.E_SHAPE: {
            "second encoder's weights for the first": flat_pair(
                "lora_te1_text_model_encoder_layers_0_mlp_fc1", (2, 1280), (5120, 2)
            ),
        },
    },
}


def _builder(file: bytes | Callable[[], bytes]) -> Callable[[], bytes]:
    return file if callable(file) else lambda: file


#: What is wrong -> the file, the family that it is published for, and the code that says so.
HOSTILE: Mapping[str, Hostile] = {
    **{
        what: Hostile(code, _builder(file))
        for code, files in _FOR_STUDIO.items()
        for what, file in files.items()
    },
    **{
        what: Hostile(code, _builder(file), family)
        for family, codes in _FOR_OTHERS.items()
        for code, files in codes.items()
        for what, file in files.items()
    },
}  # fmt: skip
