"""Several texts in one input, so that a fuzzer can change each of them, and their number, by changing bytes.

Knows nothing of what they are for.
"""

from __future__ import annotations

#: Between parts. In no UTF-8 text, so that a part can hold any; it may turn up all the same, as all things may.
BETWEEN = b"\xff\xfe"


def packed(*parts: bytes) -> bytes:
    return BETWEEN.join(parts)


def parts_of(data: bytes, count: int) -> list[bytes]:
    """So many; those that are missing are empty, and the last takes what is left."""
    found = data.split(BETWEEN, count - 1)
    return found + [b""] * (count - len(found))
