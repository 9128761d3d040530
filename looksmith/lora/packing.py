"""Packs a peft folder into one safetensors file that says all there is to know: the config goes into the header.

The same folder gives the same bytes on any machine, and these are what is hashed and stored. Training settings, paths
and everything else that the pictures do not depend on stay behind. Knows nothing about base models.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from looksmith.lora.dialects import PEFT_CONFIG_KEY
from looksmith.lora.errors import Code, refusal
from looksmith.lora.header import METADATA, read_header
from looksmith.lora.peft_config import peft_config, read_config

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
_PIECE = 1 << 20
_ALIGNMENT = 8  # of the data, as the safetensors library pads its headers


@dataclass(frozen=True)
class PackedFolder:
    """A peft folder as one file that is not written anywhere yet."""

    head: bytes
    weights: Path
    data_start: int  # in the weights file
    file_bytes: int

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes in order, at most 1 MiB at a time."""
        yield self.head
        with self.weights.open("rb") as file:
            file.seek(self.data_start)
            while piece := file.read(_PIECE):
                yield piece

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(self.chunks())


def pack(folder: Path) -> PackedFolder:
    """Reads the folder's config and the header of its weights.

    Raises:
        LoraError: E_FORMAT if a file is missing, and as strict_json.loads, peft_config and read_header.
        OSError: a file cannot be read.
    """
    config = peft_config(read_config(_config_text(folder / CONFIG_FILE), CONFIG_FILE), CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise refusal(
            Code.E_FORMAT, f"the folder has no {WEIGHTS_FILE}; save_pretrained(safe_serialization=True) writes it"
        )
    header = read_header(weights)
    entries: dict[str, object] = {METADATA: {"format": "pt", PEFT_CONFIG_KEY: config.to_json()}}
    for tensor in header.tensors.values():
        offsets = [tensor.start - header.data_start, tensor.end - header.data_start]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    return PackedFolder(head, weights, header.data_start, len(head) + header.file_bytes - header.data_start)


def _config_text(file: Path) -> bytes:
    if not file.is_file():
        raise refusal(Code.E_FORMAT, f"the folder has no {CONFIG_FILE}, which holds alpha", CONFIG_FILE)
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise refusal(Code.E_FORMAT, f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes", CONFIG_FILE)
    return file.read_bytes()
