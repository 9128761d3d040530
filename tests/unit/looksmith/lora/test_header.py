"""The container's rules, one lie at a time."""

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looksmith.lora.errors import Code, LoraError
from looksmith.lora.header import MAX_HEADER_BYTES, Header, header_length, parse_header, read_header
from tests.unit.looksmith.lora.lora_files import described, framed, safetensors, tensor

ONES = {"a": tensor([[1.0, 1.0]]), "b": tensor([1.0], "F32")}


def parsed(file: bytes, file_bytes: int | None = None) -> Header:
    file_bytes = len(file) if file_bytes is None else file_bytes
    length = header_length(file[:8], file_bytes)
    return parse_header(file[8 : 8 + length], file_bytes)


def refused(file: bytes, file_bytes: int | None = None) -> Code:
    with pytest.raises(LoraError) as caught:
        parsed(file, file_bytes)
    return caught.value.code


def header_with(**changes: object) -> bytes:
    """The file of ONES with fields of a's entry replaced."""
    header = described(ONES)
    entry = header["a"]
    assert isinstance(entry, dict)
    return framed({**header, "a": entry | changes}, bytes(8))


def test_reads_tensors_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = described(ONES, {"format": "pt"})
    (tmp_path / "file").write_bytes(framed(dict(reversed(header.items())), bytes(8)))
    read = read_header(tmp_path / "file")
    assert list(read.tensors) == ["a", "b"]
    assert read.metadata == {"format": "pt"}
    assert (read.tensors["b"].start, read.tensors["b"].end) == (read.data_start + 4, read.file_bytes)
    assert read.tensors["a"].shape == (1, 2)


def test_accepts_padding_after_the_header() -> None:
    assert list(parsed(framed(json.dumps(described(ONES)).encode() + b"   ", bytes(8))).tensors) == ["a", "b"]


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 10 << 20, 1 << 63, (1 << 64) - 1])
def test_refuses_a_header_length_before_reading_so_much(length: int) -> None:
    with pytest.raises(LoraError) as caught:
        header_length(struct.pack("<Q", length), 1 << 29)
    assert caught.value.code is Code.E_HEADER_LEN


def test_refuses_a_header_that_reaches_beyond_the_file() -> None:
    assert refused(framed(b"{}" * 100)[:100]) is Code.E_HEADER_LEN


@pytest.mark.parametrize("size", [0, 7, 9])
def test_refuses_a_file_too_short_for_any_header(size: int) -> None:
    assert refused(bytes(8), size) is Code.E_SIZE


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"PK\x03\x04\x14\x00\x00\x00", "zip"),
        (b"\x80\x02}q\x00(X\x01", "pickle"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"version https://git-lfs", "LFS"),
    ],
)
def test_names_the_other_format(beginning: bytes, name: str) -> None:
    with pytest.raises(LoraError, match=name) as caught:
        parsed(beginning + bytes(100))
    assert caught.value.code is Code.E_MAGIC


def test_a_true_length_that_begins_like_a_pickle_is_no_pickle() -> None:
    text = json.dumps(described(ONES)).encode().ljust(0x0280)
    assert framed(text).startswith(b"\x80\x02")
    assert list(parsed(framed(text, bytes(8))).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[]", Code.E_MAGIC),
        (b"\xef\xbb\xbf{}", Code.E_MAGIC),
        (b'{"a": ', Code.E_JSON),
        (b'{"a": "\xff"}', Code.E_JSON),
        (b'{"a": NaN}', Code.E_JSON),
        (b'{"a": ' + b"[" * 10_000, Code.E_JSON),
        (b'{"a": ' + b"[" * 100_000, Code.E_TENSOR_COUNT),
        (b'{"a": ' + b"9" * 10_000 + b"}", Code.E_JSON),
        (b'{"a": 1} trailing', Code.E_JSON),
        (b'{"a": 1}', Code.E_JSON),
        (b"{}", Code.E_TENSOR_COUNT),
        (b'{"__metadata__": {}}', Code.E_TENSOR_COUNT),
        (b'{"__metadata__": {"a": 1}}', Code.E_METADATA),
        (b'{"__metadata__": {"a": "\\ud800"}}', Code.E_METADATA),
        (b'{"__metadata__": []}', Code.E_METADATA),
        (b'{"__metadata__": null}', Code.E_METADATA),
        (b'{"__metadata__": {"a": "' + b"x" * (1 << 20) + b'"}}', Code.E_METADATA),
        (b'{"__metadata__": {"a": "x", "a": "y"}}', Code.E_JSON),
    ],
)
def test_refuses_a_malformed_header(text: bytes, code: Code) -> None:
    assert refused(framed(text, bytes(8))) is code


def test_refuses_a_duplicate_tensor() -> None:
    entry = json.dumps(described(ONES)["a"])
    text = f'{{"a": {entry}, "a": {entry}}}'.encode()
    assert refused(framed(text, bytes(4))) is Code.E_JSON


def test_refuses_a_duplicate_field_inside_a_tensor() -> None:
    text = b'{"a": {"dtype": "F16", "dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}'
    assert refused(framed(text, bytes(2))) is Code.E_JSON


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dtype": "F17"}, Code.E_DTYPE),
        ({"dtype": ["F16"]}, Code.E_DTYPE),
        ({"shape": [True, 2]}, Code.E_JSON),
        ({"shape": [1, 2.0]}, Code.E_JSON),
        ({"shape": [-1, -2]}, Code.E_JSON),
        ({"shape": "12"}, Code.E_JSON),
        ({"shape": [1] * 9 + [2]}, Code.E_JSON),
        ({"shape": [1 << 62, 1 << 62]}, Code.E_OFFSETS),
        ({"shape": [1 << 64, 2]}, Code.E_JSON),
        ({"shape": [0, 2]}, Code.E_EMPTY_TENSOR),
        ({"shape": [0, 2], "data_offsets": [0, 0]}, Code.E_EMPTY_TENSOR),
        ({"data_offsets": [False, 4]}, Code.E_JSON),
        ({"data_offsets": [0]}, Code.E_JSON),
        ({"data_offsets": [4, 0]}, Code.E_OFFSETS),
        ({"data_offsets": [0, 6]}, Code.E_OFFSETS),
        ({"extra": 1}, Code.E_JSON),
    ],
)
def test_refuses_a_malformed_entry(changes: dict[str, object], code: Code) -> None:
    assert refused(header_with(**changes)) is code


def test_refuses_a_missing_field() -> None:
    assert refused(framed({"a": {"dtype": "F16", "shape": [1]}}, bytes(2))) is Code.E_JSON


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a b", "é", "a" * 257, "a\n"])
def test_refuses_a_name_that_is_no_module_path(name: str) -> None:
    assert refused(safetensors({name: tensor([1.0])})) is Code.E_NAME


def entry(start: int, end: int) -> dict[str, object]:
    return {"dtype": "F16", "shape": [(end - start) // 2], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        ({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
        ({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)),
        ({"a": entry(2, 4)}, bytes(4)),
        ({"a": entry(0, 4)}, bytes(5)),
        ({"a": entry(0, 4)}, bytes(3)),
    ],
    ids=["overlap", "alias", "hole", "hole at the start", "trailing bytes", "cut"],
)
def test_refuses_tensors_that_do_not_tile_the_data(header: object, data: bytes) -> None:
    assert refused(framed(header, data)) is Code.E_OFFSETS


def test_refuses_too_many_tensors() -> None:
    header = {f"t{i}": entry(2 * i, 2 * i + 2) for i in range(6001)}
    assert refused(framed(header, bytes(2 * 6001))) is Code.E_TENSOR_COUNT


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [' + b"[]," * (1 << 20) + b"[]]}",
        b'{"a": {"shape": [' + b"9," * (1 << 20) + b"9]}}",
        b'{"a": "' + b'\\",' * (1 << 20) + b'", "b": [' + b"0," * 400_000,
        b'{"a": "' + b'\\"' * (1 << 20),
    ],
    ids=["empty lists", "long shape", "behind a string", "string without end"],
)
def test_megabytes_of_values_are_refused_before_they_take_memory(text: bytes) -> None:
    tracemalloc.start()
    assert refused(framed(text)) in {Code.E_TENSOR_COUNT, Code.E_JSON}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_commas_inside_strings_are_not_counted() -> None:
    text = json.dumps({"__metadata__": {"tags": ',"\\' * 100_000 + "," * 500_000}, **described(ONES)}).encode()
    assert list(parsed(framed(text, bytes(8))).tensors) == ["a", "b"]


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(file: bytes) -> None:
    try:
        parsed(file.ljust(8, b"\0"), len(file))
    except LoraError:
        return


LIES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 2, 1.5, 1 << 64, "F16", "F32", [], [0], [1], [2], [0, 2], [2, 4], [0, 4], {}]
)
ENTRY = LIES | st.fixed_dictionaries({}, optional={"dtype": LIES, "shape": LIES, "data_offsets": LIES, "more": LIES})


@given(st.fixed_dictionaries({}, optional={"a": ENTRY, "b": ENTRY, "__metadata__": ENTRY}), st.integers(0, 8))
@settings(deadline=None)
def test_no_header_raises_anything_but_a_refusal(header: object, size: int) -> None:
    try:
        parsed(framed(header, bytes(size)))
    except LoraError:
        return
