"""Adapter files in the store: written whole or in parts, each checked once it is there, and read back across parts.

Knows keys and bytes; which version a file becomes is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from services.registry import layout
from services.registry.errors import StoreUnavailable
from services.registry.object_store import ObjectStore, listing_of

#: Size of every part of a file but its last; a file up to this is one object. Records name parts without their sizes,
#: so this must stay as it is for as long as any of them is read. An upload that is cut off loses less than one, and
#: holds a few of them in memory.
PART_BYTES = 8 << 20


class PartDamaged(Exception):
    """The bytes of a part are not those that its name tells of."""


class Blobs:
    """Files by key. ``part_bytes`` other than PART_BYTES is for tests, which make many parts of a small file."""

    def __init__(self, *, store: ObjectStore, part_bytes: int = PART_BYTES) -> None:
        self._store, self.part_bytes = store, part_bytes

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """Stores a file of one object, or a part.

        Raises:
            StoreUnavailable: it may or may not be there; nothing refers to it.
        """
        await self._store.put(key, data)
        found = await self._store.size(key)
        if found != len(data):
            raise StoreUnavailable(f"it shows {found} bytes of an object of {len(data)}")

    async def put_part(self, blob: str, index: int, data: bytes | memoryview) -> str:
        """Stores a part and returns its name. Raises: as ``put``."""
        name = layout.part_name(index, await asyncio.to_thread(_sha256, data))
        await self.put(layout.part(blob, name), data)
        return name

    async def part(self, blob: str, name: str) -> bytes:
        """A part's bytes.

        Raises:
            PartDamaged: it is gone, or its bytes are others.
        """
        data = await self._store.get(layout.part(blob, name))
        if data is None or layout.part_name(layout.part_index(name), await asyncio.to_thread(_sha256, data)) != name:
            raise PartDamaged(name)
        return data

    async def whole_parts(self, blob: str, size: int) -> list[str]:
        """Names of the parts that the store shows of a file, from its start up to the first that is missing.

        Where two streams have left different bytes in one place, nobody can tell which are right: that part is missing.
        """
        names: dict[int, list[str]] = {}
        async for found in listing_of(self._store, layout.part(blob, "")):
            name = found.key.removeprefix(layout.part(blob, ""))
            if not layout.is_part_name(name):
                continue
            index = layout.part_index(name)
            if found.size == min(self.part_bytes, size - index * self.part_bytes):
                names.setdefault(index, []).append(name)
        whole: list[str] = []
        while len(there := names.get(len(whole), ())) == 1:
            whole += there
        return whole

    async def read(self, keys: Sequence[str], *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a file from ``offset`` on, at most ``limit`` of them unless that is 0."""
        if len(keys) == 1:  # of any size: it may be older than parts are
            async for piece in self._store.stream(keys[0], offset=offset, limit=limit):
                yield piece
            return
        first, start = divmod(offset, self.part_bytes)
        end = offset + limit if limit else len(keys) * self.part_bytes
        for index, key in enumerate(keys[first:], first):
            here = min(self.part_bytes, end - index * self.part_bytes)
            if here <= start:
                return
            async for piece in self._store.stream(key, offset=start, limit=here - start):
                yield piece
            start = 0


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
