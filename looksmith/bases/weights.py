"""The head of a safetensors file: enough to see that it is one, and whole. Leaves the tensors to who loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: As the format has it.
_MAX_HEADER_BYTES = 100_000_000


class NotWhole(ValueError):
    """What is wrong with the file, to be read after its name."""


def read_head(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, by their names.

    Raises:
        NotWhole: it is another kind of file, or its length is not what its head says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise NotWhole("is the pointer that Git LFS leaves in place of a file: fetch it with `git lfs pull`")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise NotWhole("is no safetensors file, or is cut short")
        try:
            head = json.loads(stream.read(length))
            tensors = {name: row for name, row in head.items() if name != "__metadata__"}
            end = 8 + length + max(row["data_offsets"][1] for row in tensors.values())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise NotWhole("is no safetensors file that holds a tensor") from None
    if size != end:
        raise NotWhole(f"has {size} bytes, and its head speaks of {end}: fetch it again")
    return tensors
