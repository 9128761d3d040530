"""What the header of a safetensors file says, read more strictly than the safetensors library does.

Owns the container: lengths, JSON, names, offsets. Knows nothing about LoRA, and serves a base model's files too.
The format: https://github.com/huggingface/safetensors#format. The common reader takes the last of duplicate keys,
zero-sized tensors that alias another's bytes, hundreds of thousands of tensors, and files without any.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from looksmith.lora import strict_json
from looksmith.lora.errors import Code, refusal, shown

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 4 << 20  # 6000 entries and metadata need 3 MiB; one emoji makes all of it 16 MiB in Python
MAX_METADATA_BYTES = 1 << 20
MAX_TENSORS = 6_000  # an SDXL LoRA of every layer has some 3 200
MAX_DIMENSIONS = 8
NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
METADATA = "__metadata__"

#: Most of each sign outside of strings: what MAX_TENSORS entries of five dimensions have, and room for metadata. Every
#: value costs one of them, so that a header that keeps to them is parsed in some 10 MiB.
MAX_SIGNS = {b"{": MAX_TENSORS + 2, b"[": 2 * MAX_TENSORS, b":": 5 * MAX_TENSORS, b",": 9 * MAX_TENSORS}
MAX_QUOTES = 12 * MAX_TENSORS  # escaped ones aside; an entry has ten

# Possessive, and content with a string that never ends, so that no header makes it go over the same bytes twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)

DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

# How other formats begin, and what they are. A pickle's 0x80 may begin a true length too, so these only explain a
# length that cannot be.
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"version ": "a Git LFS pointer and not the file itself",
    **dict.fromkeys((b"<!DOCTYP", b"<!doctyp", b"<html"), "a web page, as sites send where one must log in"),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: bytes start to end, counted from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A header that has passed every rule: its tensors tile the file from data_start to its end."""

    file_bytes: int
    data_start: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]  # by name, in the order of their bytes


def header_length(first: bytes | bytearray, file_bytes: int) -> int:
    """The length of the header's JSON, from a file's first eight bytes and its whole size.

    Raises:
        LoraError: E_SIZE, E_MAGIC or E_HEADER_LEN; before anything of the announced length is allocated.
    """
    if file_bytes < LENGTH_BYTES + len("{}"):
        raise refusal(Code.E_SIZE, f"the file has {file_bytes} bytes, too few for any safetensors file")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if len("{}") <= length <= min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
        return length
    for magic, name in OTHER_FORMATS.items():
        if first.startswith(magic):
            raise refusal(Code.E_MAGIC, f"the file is {name}")
    raise refusal(
        Code.E_HEADER_LEN,
        f"the first eight bytes announce a header of {length} bytes in a file of {file_bytes}; at most "
        f"{MAX_HEADER_BYTES} are read. The file is cut, or not a safetensors file",
    )


def parse_header(text: bytes, file_bytes: int) -> Header:
    """Checks the header's JSON, text, of a file of file_bytes bytes.

    Raises:
        LoraError: E_MAGIC, E_JSON, E_METADATA, E_TENSOR_COUNT, E_NAME, E_DTYPE, E_EMPTY_TENSOR or E_OFFSETS.
    """
    if not text.startswith(b"{"):
        raise refusal(Code.E_MAGIC, f"the file is not a safetensors file: byte 8 is {shown(text[:1])}, not '{{'")
    if _is_crowded(text):
        raise refusal(
            Code.E_TENSOR_COUNT,
            f"the header holds more values than {MAX_TENSORS} tensors have, the most that are allowed",
        )
    entries = strict_json.loads(text, "the header")
    if not isinstance(entries, dict):  # pragma: no cover  # text that begins with { parses to an object
        raise refusal(Code.E_JSON, "the header is not a JSON object")
    metadata = _metadata(entries.pop(METADATA, {}))
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise refusal(Code.E_TENSOR_COUNT, f"the file has {len(entries)} tensors; 1 to {MAX_TENSORS} are allowed")
    data_start = LENGTH_BYTES + len(text)
    tensors = sorted(
        (_tensor(name, entry, data_start) for name, entry in entries.items()), key=lambda tensor: tensor.start
    )
    at = data_start
    for tensor in tensors:
        if tensor.start != at:
            fault = "overlaps the tensor before it" if tensor.start < at else "leaves a hole before it"
            raise refusal(Code.E_OFFSETS, f"tensor {tensor.name} {fault}", tensor.name)
        at = tensor.end
    if at != file_bytes:
        raise refusal(Code.E_OFFSETS, f"the tensors end at byte {at} of a file of {file_bytes} bytes")
    return Header(file_bytes, data_start, metadata, {tensor.name: tensor for tensor in tensors})


def read_header(path: Path) -> Header:
    """Reads and checks the header of the file at path.

    Raises:
        LoraError: as header_length and parse_header.
        OSError: the file cannot be read.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(file.read(LENGTH_BYTES), file_bytes)
        return parse_header(file.read(length), file_bytes)


def _is_crowded(text: bytes) -> bool:
    """Whether the text has more signs than MAX_TENSORS entries. Asked before megabytes of `[],[],` become objects."""
    if text.count(b'"') - text.count(b'\\"') > MAX_QUOTES:  # or taking the strings out would take memory, too
        return True
    if all(text.count(sign) <= most for sign, most in MAX_SIGNS.items()):
        return False
    bare = _STRING.sub(b"", text)
    return any(bare.count(sign) > most for sign, most in MAX_SIGNS.items())


def _metadata(entries: object) -> dict[str, str]:
    if not isinstance(entries, dict):
        raise refusal(Code.E_METADATA, "__metadata__ is not a JSON object", METADATA)
    total = 0
    for key, value in entries.items():
        if not isinstance(value, str):
            raise refusal(Code.E_METADATA, f"metadata {shown(key)} is {type(value).__name__}, not text", METADATA)
        try:
            total += len(key.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise refusal(Code.E_METADATA, f"metadata {shown(key)} holds half a surrogate pair", METADATA) from None
    if total > MAX_METADATA_BYTES:
        raise refusal(Code.E_METADATA, f"metadata takes {total} bytes; at most {MAX_METADATA_BYTES} are kept", METADATA)
    return entries


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    if not NAME.fullmatch(name):
        raise refusal(Code.E_NAME, f"the tensor name {shown(name)} is not allowed")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refusal(Code.E_JSON, f"tensor {name} is not described by exactly dtype, shape and data_offsets", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise refusal(Code.E_DTYPE, f"tensor {name} has the unknown type {shown(dtype)}", name)
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise refusal(Code.E_JSON, f"tensor {name} has the shape {shown(shape)}, not a short list of integers", name)
    if not _naturals(offsets) or len(offsets) != 2:
        raise refusal(Code.E_JSON, f"tensor {name} has the offsets {shown(offsets)}, not two integers", name)
    start, end = offsets
    if 0 in shape or start == end:
        raise refusal(
            Code.E_EMPTY_TENSOR, f"tensor {name} of shape {shown(shape)} and {end - start} bytes is empty", name
        )
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise refusal(
            Code.E_OFFSETS, f"tensor {name}, {dtype} of shape {shown(shape)}, cannot fill bytes {start} to {end}", name
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + start, data_start + end)


def _naturals(value: object) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110  # thousands of times a file, and half as fast with all()
        # bool is an int to isinstance, and True would pass for 1; 2**63 is more than any file has
        if type(item) is not int or not 0 <= item < 1 << 63:
            return False
    return True
