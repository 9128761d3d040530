"""A file to be published, from disk or from memory, in pieces that one message can hold. Knows nothing about calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

#: Read more than once: for its digest, when it is sent, and when it has to be sent again.
Content = Path | Sequence[bytes] | Callable[[], Iterable[bytes]]

PIECE_BYTES = 1 << 20


def pieces_of(content: Content, offset: int = 0) -> Iterator[bytes]:
    """The bytes in order from ``offset`` on, at most PIECE_BYTES at a time."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(offset)
            while piece := file.read(PIECE_BYTES):
                yield piece
    else:
        for piece in content() if callable(content) else content:
            for at in range(offset, len(piece), PIECE_BYTES):
                yield piece[at : at + PIECE_BYTES]
            offset = max(0, offset - len(piece))


def measured(content: Content) -> tuple[str, int]:
    """Digest and size of a file, as its PublishHeader announces them; reads all of it."""
    sha256, size = hashlib.sha256(), 0
    for piece in pieces_of(content):
        sha256.update(piece)
        size += len(piece)
    return sha256.hexdigest(), size
