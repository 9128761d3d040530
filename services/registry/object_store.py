"""What the registry needs of an object store, and one in memory that keeps the same contract.

Knows keys and bytes; knows nothing about brands, logs or any one product.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from services.registry.errors import StoreRefused, StoreUnavailable

#: Bytes that a stream hands out at once; a chunk of a download.
STREAM_BYTES = 256 * 1024


class Creation(Enum):
    """What became of a create-if-absent."""

    CREATED = "created"
    EXISTS = "exists"
    UNKNOWN = "unknown"
    """The answer was lost or undecided: the object may have been created, or may yet be."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing shows of an object. ``modified``: when it was last written, by the store's clock."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key. What has been written is seen by every later read.

    Every method raises StoreUnavailable when the store cannot be reached, and StoreRefused when it says no.
    """

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        """Writes a small object unless the key is taken; of several racing writers exactly one creates it.

        Raises:
            StoreUnavailable: and nothing was or will be written; where that is not sure, the answer is UNKNOWN.
        """

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes bytes, whole or not at all, over whatever was there."""

    async def get(self, key: str) -> bytes | None:
        """A small object's bytes; None if there is none."""

    def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` on, at most ``limit`` of them unless that is 0, in pieces of STREAM_BYTES at most.

        ``offset`` must lie within the object. A missing object is StoreRefused.
        """

    async def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        """Keys with this prefix and after ``start_after``, ascending, at most ``limit``."""

    async def listing(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[StoredObject]:
        """As ``keys``, with what else a listing shows."""

    async def folders(self, prefix: str) -> list[str]:
        """What stands between ``prefix`` and the next "/" in all keys, ascending, each once."""

    async def delete(self, key: str) -> None:
        """Removes an object, if it is there."""


#: Objects that one listing shows, and deletions that run at once.
_PAGE, _DELETIONS = 1000, 8


async def listing_of(store: ObjectStore, prefix: str) -> AsyncIterator[StoredObject]:
    """All objects with a prefix, ascending, however many there are."""
    start_after = ""
    while page := await store.listing(prefix, start_after=start_after, limit=_PAGE):
        for found in page:
            yield found
        start_after = page[-1].key


async def delete_all(store: ObjectStore, keys: Sequence[str]) -> None:
    """Deletes objects, some at a time. The first error ends it; what is under way goes on to its end."""
    turns = asyncio.Semaphore(_DELETIONS)

    async def delete(key: str) -> None:
        async with turns:
            await store.delete(key)

    await asyncio.gather(*map(delete, keys))


#: When objects were written that a test has put there by itself.
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class InMemoryObjectStore:
    """A store that lasts as long as the process. ``reachable = False`` makes it fail as a lost network would."""

    def __init__(self, *, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.objects: dict[str, bytes] = {}
        self.reachable = True
        self._wall_clock = wall_clock
        self._modified: dict[str, datetime] = {}

    async def _arrive(self) -> None:
        await asyncio.sleep(0)  # others get their turn, as they would while a request travels
        if not self.reachable:
            raise StoreUnavailable("switched off")

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        await self._arrive()
        if key in self.objects:
            return Creation.EXISTS
        self._write(key, data)
        return Creation.CREATED

    async def put(self, key: str, data: bytes | memoryview) -> None:
        await self._arrive()
        self._write(key, bytes(data))

    async def get(self, key: str) -> bytes | None:
        await self._arrive()
        return self.objects.get(key)

    async def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        await self._arrive()
        if key not in self.objects:
            raise StoreRefused("NoSuchKey")
        data = self.objects[key][offset:]
        data = data[:limit] if limit else data
        for at in range(0, len(data), STREAM_BYTES):
            yield data[at : at + STREAM_BYTES]

    async def size(self, key: str) -> int | None:
        await self._arrive()
        return len(self.objects[key]) if key in self.objects else None

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        await self._arrive()
        return sorted(key for key in self.objects if key.startswith(prefix) and key > start_after)[:limit]

    async def listing(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[StoredObject]:
        keys = await self.keys(prefix, start_after=start_after, limit=limit)
        return [StoredObject(key, len(self.objects[key]), self._modified.get(key, _LONG_AGO)) for key in keys]

    async def folders(self, prefix: str) -> list[str]:
        await self._arrive()
        rests = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    async def delete(self, key: str) -> None:
        await self._arrive()
        self.objects.pop(key, None)

    def _write(self, key: str, data: bytes) -> None:
        self.objects[key], self._modified[key] = data, self._wall_clock()
