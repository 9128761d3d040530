"""A good adapter passes whole; a hostile file is refused with its code, as early as can be."""

import hashlib
import json
import math
import tracemalloc
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looksmith.lora.dialects import Dialect
from looksmith.lora.errors import Code, LoraError
from looksmith.lora.limits import Limits
from looksmith.lora.tables import Module, ModuleTable
from looksmith.lora.validate import Inspection, Inspector, inspect
from tests.unit.looksmith.lora.lora_files import (
    CONV,
    Q_PROJ,
    TO_K,
    TO_Q,
    Tensor,
    described,
    diffusers,
    framed,
    kohya,
    peft,
    safetensors,
    tensor,
    tiny_table,
)

TABLE = tiny_table()
GOOD = diffusers(TABLE, {f"unet.{TO_Q}": 2, f"unet.{CONV}": 3, f"text_encoder.{Q_PROJ}": 4})
KOHYA = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": ("unet", TO_Q)}


def fed(file: bytes, size: int = 1 << 20, table: ModuleTable = TABLE, limits: Limits | None = None) -> Inspection:
    inspector = Inspector(len(file), table, limits=limits)
    for at in range(0, len(file), size):
        inspector.feed(file[at : at + size])
    return inspector.finish()


def refused(file: bytes, size: int = 1 << 20, limits: Limits | None = None) -> LoraError:
    with pytest.raises(LoraError) as caught:
        fed(file, size, limits=limits)
    return caught.value


def test_an_inspection_says_what_the_adapter_is(tmp_path: Path) -> None:
    file = safetensors(GOOD)
    (tmp_path / "lora").write_bytes(file)
    found = inspect(tmp_path / "lora", TABLE, declared_base="sha256:base")
    assert found.sha256 == hashlib.sha256(file).hexdigest()
    assert found.file_bytes == len(file)
    assert (found.family, found.base_digest, found.dialect) == ("tiny", "sha256:base", Dialect.DIFFUSERS)
    assert found.components == ("unet", "text_encoder")
    assert found.ranks == (2, 3, 4)
    assert found.rank_map == {f"unet.{CONV}": 3, f"unet.{TO_Q}": 2, f"text_encoder.{Q_PROJ}": 4}
    assert found.alpha_map == {name: float(rank) for name, rank in found.rank_map.items()}
    assert found.parameters == sum(math.prod(one.shape) for one in GOOD.values())
    assert found.warnings == ()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 1000])
def test_the_size_of_chunks_does_not_matter(size: int) -> None:
    file = safetensors(kohya(TABLE, KOHYA, alpha=tensor(3.0, "F32")))
    assert fed(file, size) == fed(file)


def test_any_buffer_is_taken() -> None:
    file = safetensors(GOOD)
    inspector = Inspector(len(file), TABLE)
    inspector.feed(bytearray(file[:100]))
    inspector.feed(b"")
    even = len(file) - len(file) % 2
    inspector.feed(memoryview(array("H", file[100:even])))
    inspector.feed(memoryview(file)[even:])
    assert inspector.finish() == fed(file)


def with_value(dtype: str, value: float, at: int = 3) -> bytes:
    tensors = diffusers(TABLE, {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 2}, dtype)
    values = np.ones((8, 2))
    values.flat[at] = value
    return safetensors(tensors | {f"unet.{TO_Q}.lora_B.weight": tensor(values, dtype)})


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5, 15])
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_refuses_a_number_that_is_not_finite_wherever_chunks_part(dtype: str, value: float, at: int, size: int) -> None:
    error = refused(with_value(dtype, value, at), size)
    assert error.code is Code.E_NONFINITE
    assert f"unet.{TO_Q}.lora_B.weight holds {'NaN' if math.isnan(value) else 'infinity'}" in str(error)


@pytest.mark.parametrize(
    ("dtype", "value"), [("F16", 65504.0), ("BF16", 3.38e38), ("F32", 3.4028235e38), ("F32", 1e-45)]
)
def test_the_largest_and_smallest_numbers_are_finite(dtype: str, value: float) -> None:
    fed(with_value(dtype, value), 3)


def lying(**changes: object) -> bytes:
    """A good file but for some fields of its first tensor."""
    header = described(GOOD)
    first = next(iter(header))
    entry = header[first]
    assert isinstance(entry, dict)
    header[first] = entry | changes
    return framed(header, b"".join(one.raw for one in GOOD.values()))


def described_as(metadata: dict[str, str]) -> bytes:
    return safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}), metadata)


def duplicated() -> bytes:
    text = json.dumps(described(GOOD))
    first = text[1 : text.index("}") + 1]
    return framed(f"{{{first}, {text[1:]}".encode(), b"".join(one.raw for one in GOOD.values()))


def without(name: str) -> bytes:
    return safetensors({key: one for key, one in GOOD.items() if key != name})


def renamed(old: str, new: str) -> bytes:
    return safetensors({key.replace(old, new): one for key, one in GOOD.items()})


def overlapping() -> bytes:
    header = described(GOOD)
    first, second = list(header)[:2]
    header[second] = header[first]
    return framed(header, b"".join(one.raw for one in GOOD.values()))


def hole() -> bytes:
    header = described({"hole": tensor([1.0]), **GOOD})
    del header["hole"]
    return framed(header, bytes(2) + b"".join(one.raw for one in GOOD.values()))


def zero_sized_alias() -> bytes:
    entry = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    return framed({**described(GOOD), "unet.conv_in.lora_A.weight": entry}, b"".join(one.raw for one in GOOD.values()))


HOSTILE = {
    "empty": (b"", Code.E_SIZE),
    "zip": (b"PK\x03\x04\x14\x00\x00\x00" + bytes(100), Code.E_MAGIC),
    "pickle": (b"\x80\x02}q\x00(X\x01" + bytes(100), Code.E_MAGIC),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), Code.E_MAGIC),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(100), Code.E_MAGIC),
    "web page": (b"<!DOCTYPE html><html></html>", Code.E_MAGIC),
    "text": (b"Not a safetensors file, but a text.", Code.E_HEADER_LEN),
    "header of 10 MB": ((10_000_000).to_bytes(8, "little") + bytes(100), Code.E_HEADER_LEN),
    "header longer than the file": ((101).to_bytes(8, "little") + bytes(100), Code.E_HEADER_LEN),
    "header is a list": (framed([]), Code.E_MAGIC),
    "header is cut JSON": (framed(b'{"a": {'), Code.E_JSON),
    "no tensors": (framed({}), Code.E_TENSOR_COUNT),
    "too many tensors": (framed({str(i): {} for i in range(6001)}), Code.E_TENSOR_COUNT),
    "duplicate key": (duplicated(), Code.E_JSON),
    "metadata that is no text": (framed({**described(GOOD), "__metadata__": {"a": 1}}), Code.E_METADATA),
    "bool as a size": (lying(shape=[True, 16]), Code.E_JSON),
    "bool as an offset": (lying(data_offsets=[False, 32]), Code.E_JSON),
    "float as a size": (lying(shape=[2.0, 8]), Code.E_JSON),
    "extra field": (lying(stride=[8, 1]), Code.E_JSON),
    "unknown type": (lying(dtype="F8_E4M3FNUZ"), Code.E_DTYPE),
    "type that is not for weights": (safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}, "F64")), Code.E_DTYPE),
    "shape that does not fill its bytes": (lying(shape=[2, 9]), Code.E_OFFSETS),
    "overlap": (overlapping(), Code.E_OFFSETS),
    "hole": (hole(), Code.E_OFFSETS),
    "trailing bytes": (safetensors(GOOD) + b"\0", Code.E_OFFSETS),
    "zero-sized alias": (zero_sized_alias(), Code.E_EMPTY_TENSOR),
    "path as a name": (renamed("unet.", "../unet."), Code.E_NAME),
    "missing half": (without(f"unet.{TO_Q}.lora_B.weight"), Code.E_PAIR),
    "ranks that differ": (
        safetensors(GOOD | {f"unet.{TO_Q}.lora_B.weight": tensor(np.ones((8, 3)))}),
        Code.E_PAIR,
    ),
    "rank too high": (safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 129})), Code.E_RANK),
    "LoHa": (safetensors({"lora_unet_a.hada_w1_a": tensor([1.0])}), Code.E_UNSUPPORTED),
    "LoKr": (safetensors({"lora_unet_a.lokr_w1": tensor([1.0])}), Code.E_UNSUPPORTED),
    "DoRA": (safetensors(GOOD | {f"unet.{TO_Q}.lora_magnitude_vector": tensor([1.0])}), Code.E_UNSUPPORTED),
    "full differences": (safetensors(kohya(TABLE, KOHYA) | {"lora_unet_a.diff": tensor([1.0])}), Code.E_UNSUPPORTED),
    "textual inversion": (safetensors({"emb_params": tensor([[1.0]])}), Code.E_UNSUPPORTED),
    "biases": (safetensors(GOOD | {f"unet.{TO_Q}.lora_B.bias": tensor([1.0])}), Code.E_UNSUPPORTED),
    "full checkpoint": (safetensors({"model.diffusion_model.out.0.weight": tensor([1.0])}), Code.E_FORMAT),
    "mixed dialects": (safetensors(GOOD | kohya(TABLE, KOHYA)), Code.E_FORMAT),
    "peft without config": (safetensors(peft(TABLE, "unet", {TO_Q: 2})), Code.E_ALPHA_MISSING),
    "config without alpha": (described_as({"lora_adapter_metadata": '{"unet.r": 2}'}), Code.E_ALPHA_MISSING),
    "config of DoRA": (
        described_as({"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 2, "unet.use_dora": true}'}),
        Code.E_UNSUPPORTED,
    ),
    "alpha too large": (
        described_as({"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1e9}'}),
        Code.E_ALPHA,
    ),
    "negative alpha": (safetensors(kohya(TABLE, KOHYA, alpha=tensor(-1.0))), Code.E_ALPHA),
    "alpha that is NaN": (safetensors(kohya(TABLE, KOHYA, alpha=tensor(math.nan))), Code.E_NONFINITE),
    "unknown module": (renamed("mid_block", "mid_block_2"), Code.E_MODULE),
    "wrong shape": (
        safetensors(GOOD | {f"unet.{TO_Q}.lora_A.weight": tensor(np.ones((2, 9)))}),
        Code.E_SHAPE,
    ),
    "encoder that the base lacks": (renamed("text_encoder.", "text_encoder_2."), Code.E_BASE),
    "width of another family": (
        safetensors(
            {
                f"unet.{TO_K}.lora_A.weight": tensor(np.ones((2, 2048))),
                f"unet.{TO_K}.lora_B.weight": tensor(np.ones((8, 2))),
            }
        ),
        Code.E_BASE,
    ),
    "transformer": (renamed("unet.", "transformer."), Code.E_BASE),
    "NaN": (with_value("F16", math.nan), Code.E_NONFINITE),
}


@pytest.mark.parametrize(("file", "code"), HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_refuses_a_hostile_file(file: bytes, code: Code, size: int) -> None:
    if size == 1 and len(file) > 100_000:
        size = 1000
    assert refused(file, size).code is code


def test_refuses_a_file_above_the_limit_before_its_first_byte() -> None:
    with pytest.raises(LoraError) as caught:
        Inspector((1 << 30) + 1, TABLE)
    assert caught.value.code is Code.E_SIZE


def test_refuses_a_foreign_format_from_its_first_bytes() -> None:
    inspector = Inspector(1 << 29, TABLE)
    with pytest.raises(LoraError) as caught:
        inspector.feed(b"PK\x03\x04\x14\x00\x00\x00")
    assert caught.value.code is Code.E_MAGIC


@pytest.mark.parametrize(
    "name", ["rank too high", "unknown module", "missing half", "config of DoRA", "alpha too large"]
)
def test_refuses_by_the_header_before_any_data_came(name: str) -> None:
    file, code = HOSTILE[name]
    inspector = Inspector(len(file), TABLE)
    with pytest.raises(LoraError) as caught:
        inspector.feed(file[: 8 + int.from_bytes(file[:8], "little")])
    assert caught.value.code is code


def test_the_header_is_at_hand_as_soon_as_it_is_complete() -> None:
    file = safetensors(GOOD)
    inspector = Inspector(len(file), TABLE)
    end = 8 + int.from_bytes(file[:8], "little")
    inspector.feed(file[: end - 1])
    early = inspector.header
    inspector.feed(file[end - 1 : end])
    header = inspector.header
    assert early is None
    assert header is not None
    assert list(header.tensors) == list(GOOD)


@pytest.mark.parametrize("cut", [0, 5, 8, 100, -1])
def test_an_upload_that_ends_early_is_refused(cut: int) -> None:
    file = safetensors(GOOD)
    inspector = Inspector(len(file), TABLE)
    inspector.feed(file[:cut])
    with pytest.raises(LoraError) as caught:
        inspector.finish()
    assert caught.value.code is Code.E_SIZE


def test_an_upload_that_does_not_end_is_refused() -> None:
    file = safetensors(GOOD)
    inspector = Inspector(len(file), TABLE)
    inspector.feed(file)
    with pytest.raises(LoraError) as caught:
        inspector.feed(b"\0")
    assert caught.value.code is Code.E_SIZE


def test_limits_can_be_tightened() -> None:
    assert refused(safetensors(GOOD), limits=Limits(rank=3)).code is Code.E_RANK
    with pytest.raises(LoraError):
        Inspector(101, TABLE, limits=Limits(file_bytes=100))


def test_warns_of_an_adapter_that_changes_nothing() -> None:
    zeros = {
        name: Tensor(one.dtype, one.shape, bytes(len(one.raw))) if "lora_B" in name else one
        for name, one in GOOD.items()
    }
    assert [warning.code for warning in fed(safetensors(zeros)).warnings] == [Code.W_ALLZERO, Code.W_BASE_UNKNOWN]
    zeros[f"unet.{TO_Q}.lora_B.weight"] = GOOD[f"unet.{TO_Q}.lora_B.weight"]
    assert [warning.code for warning in fed(safetensors(zeros)).warnings] == [Code.W_BASE_UNKNOWN]


def test_minus_zero_is_zero() -> None:
    tensors = {
        f"unet.{TO_Q}.lora_A.weight": tensor(np.ones((2, 8))),
        f"unet.{TO_Q}.lora_B.weight": tensor(np.full((8, 2), -0.0)),
    }
    assert Code.W_ALLZERO in [warning.code for warning in fed(safetensors(tensors)).warnings]


def test_a_rank_above_the_layer_s_smaller_side_is_a_warning() -> None:
    found = fed(safetensors(diffusers(TABLE, {"unet.conv_out": 5, f"unet.{TO_Q}": 8})))
    assert [warning.code for warning in found.warnings] == [Code.W_RANK, Code.W_BASE_UNKNOWN]
    assert "unet.conv_out" in found.warnings[0].what


@pytest.mark.parametrize(
    ("declared", "codes"),
    [("", [Code.W_BASE_UNKNOWN]), ("sha256:base", []), ("sha256:other", [Code.W_BASE_OTHER])],
)
def test_compares_the_declared_base(tmp_path: Path, declared: str, codes: list[Code]) -> None:
    (tmp_path / "lora").write_bytes(safetensors(GOOD))
    found = inspect(tmp_path / "lora", TABLE, declared_base=declared)
    assert [warning.code for warning in found.warnings] == codes


def test_a_table_of_a_whole_family_takes_any_declared_base(tmp_path: Path) -> None:
    (tmp_path / "lora").write_bytes(safetensors(GOOD))
    family = ModuleTable("tiny", "", TABLE.components)
    assert inspect(tmp_path / "lora", family, declared_base="sha256:other").warnings == ()


def test_memory_stays_flat_for_one_large_chunk() -> None:
    table = ModuleTable("wide", "", {"unet": {"a": Module("linear", 1 << 17, 8)}})
    file = safetensors({
        "unet.a.lora_A.weight": Tensor("F16", (128, 1 << 17), bytes(2 * 128 << 17)),
        "unet.a.lora_B.weight": Tensor("F16", (8, 128), bytes(2 * 8 * 128)),
    })  # fmt: skip
    inspector = Inspector(len(file), table)
    tracemalloc.start()
    inspector.feed(file)
    inspector.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20 < len(file)


@given(st.data())
@settings(deadline=None)
def test_a_damaged_file_is_refused_or_whole_but_never_a_crash(data: st.DataObject) -> None:
    file = bytearray(safetensors(kohya(TABLE, KOHYA, alpha=tensor(1.0))))
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = fed(bytes(file), data.draw(st.integers(1, 64)))
    except LoraError:
        return
    assert [module.name for module in found.modules] == [f"unet.{TO_Q}"]


MODULES = st.dictionaries(
    st.sampled_from([f"{part}.{path}" for part, modules in TABLE.components.items() for path in modules]),
    st.integers(1, 16),
    min_size=1,
    max_size=6,
)


@given(MODULES, st.sampled_from(["F16", "BF16", "F32"]))
@settings(max_examples=30, deadline=None)
def test_every_module_of_the_base_passes_in_every_dialect(ranks: dict[str, int], dtype: str) -> None:
    tensors = diffusers(TABLE, ranks, dtype)
    flattened = {}
    for name, one in tensors.items():
        module, half, _ = name.rsplit(".", 2)
        prefix = module.replace("text_encoder.", "lora_te_").replace("unet.", "lora_unet_").replace(".", "_")
        flattened[f"{prefix}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = one
    new, flat = fed(safetensors(tensors), 1000), fed(safetensors(flattened), 1000)
    assert (new.dialect, flat.dialect) == (Dialect.DIFFUSERS, Dialect.KOHYA)
    assert new.rank_map == flat.rank_map == ranks
    assert new.alpha_map == flat.alpha_map == {name: float(rank) for name, rank in ranks.items()}
