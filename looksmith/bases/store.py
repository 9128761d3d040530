"""What bases need of an object store, where they lie in it, and one in memory that keeps the same contract.

bases/manifests/<name>/<sha256>.json  which files make a base: written last, so that what it names is there
bases/blobs/<sha256>                  a file, shared by all bases that hold it

Beside everything that the registry keeps in the same bucket, which begins with r1/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from looksmith.bases.errors import StoreRefused
from looksmith.bases.reference import Reference

MANIFESTS = "bases/manifests/"
BLOBS = "bases/blobs/"
#: Bytes that are read at once.
PIECE_BYTES = 1 << 20


def manifest_key(reference: Reference) -> str:
    return f"{MANIFESTS}{reference.name}/{reference.digest}.json"


def blob_key(sha256: str) -> str:
    return f"{BLOBS}{sha256}"


@dataclass(frozen=True)
class StoredObject:
    """``modified``: when it was last written, by the store's clock."""

    key: str
    size: int
    modified: datetime


class Source(Protocol):
    """What can be read, such as an open file."""

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes; fewer only at the end."""


class BaseStore(Protocol):
    """Objects by key, for several threads at a time. Each key is only ever written with the same bytes.

    Every method raises StoreUnavailable, StoreDenied, BucketNotFound or StoreRefused when the store does not do it.
    """

    def put(self, key: str, stream: Source, size: int) -> None:
        """Writes the next ``size`` bytes of a stream, whole or not at all; what reading raises is raised."""

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def get(self, key: str) -> bytes | None:
        """A small object's bytes; None if there is none."""

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """The bytes from ``offset`` on, in pieces of PIECE_BYTES at most. ``offset`` must lie within the object."""

    def listing(self, prefix: str) -> list[StoredObject]:
        """All objects with a prefix, ascending by key."""

    def delete(self, key: str) -> None:
        """Removes an object, if it is there."""


class InMemoryBaseStore:
    """A store that lasts as long as the process."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, stream: Source, size: int) -> None:
        data = stream.read(size)
        if len(data) != size:
            raise StoreRefused(f"{len(data)} bytes came of {size}")
        self.objects[key] = data

    def size(self, key: str) -> int | None:
        return len(self.objects[key]) if key in self.objects else None

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        if key not in self.objects:
            raise StoreRefused("NoSuchKey")
        data = self.objects[key]
        for at in range(offset, len(data), PIECE_BYTES):
            yield data[at : at + PIECE_BYTES]

    def listing(self, prefix: str) -> list[StoredObject]:
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        return [StoredObject(key, len(self.objects[key]), _LONG_AGO) for key in keys]

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


#: When everything was written that memory holds.
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
