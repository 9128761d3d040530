"""What every object store must do; run over the one in memory and over a real one."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from services.registry.blobs import PART_BYTES
from services.registry.object_store import STREAM_BYTES, Creation, ObjectStore


class ObjectStoreContract:
    """Subclasses give the fixture ``store``. Keys get a prefix of their own, since a real store outlives a test."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"contract/{uuid4().hex}/"

    async def test_creates_what_is_absent_and_leaves_what_is_there(self, store: ObjectStore, prefix: str) -> None:
        assert await store.create_if_absent(f"{prefix}k", b"first") is Creation.CREATED
        assert await store.create_if_absent(f"{prefix}k", b"second") is Creation.EXISTS
        assert await store.get(f"{prefix}k") == b"first"

    async def test_of_racing_creators_exactly_one_wins(self, store: ObjectStore, prefix: str) -> None:
        bodies = [f"writer {i}".encode() for i in range(8)]
        outcomes = await asyncio.gather(*(store.create_if_absent(f"{prefix}race", body) for body in bodies))
        assert outcomes.count(Creation.CREATED) == 1
        assert await store.get(f"{prefix}race") == bodies[outcomes.index(Creation.CREATED)]

    async def test_a_put_replaces_what_was_there(self, store: ObjectStore, prefix: str) -> None:
        for content in (b"before", b"after", b""):
            await store.put(f"{prefix}k", content)
            assert await store.get(f"{prefix}k") == content

    async def test_absent_objects_are_none(self, store: ObjectStore, prefix: str) -> None:
        assert await store.get(f"{prefix}nothing") is None
        assert await store.size(f"{prefix}nothing") is None

    async def test_a_large_object_is_stored_whole_and_streamed_in_pieces(self, store: ObjectStore, prefix: str) -> None:
        data = bytes(range(256)) * (PART_BYTES // 256)
        await store.put(f"{prefix}file", data)
        assert await store.size(f"{prefix}file") == len(data)
        pieces = [piece async for piece in store.stream(f"{prefix}file")]
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= STREAM_BYTES

    @pytest.mark.parametrize(("offset", "limit"), [(0, 3), (4, 0), (4, 3), (9, 100)])
    async def test_streams_the_part_that_is_asked_for(
        self, store: ObjectStore, prefix: str, offset: int, limit: int
    ) -> None:
        await store.create_if_absent(f"{prefix}ten", b"0123456789")
        got = b"".join([piece async for piece in store.stream(f"{prefix}ten", offset=offset, limit=limit)])
        assert got == b"0123456789"[offset : offset + limit if limit else None]

    async def test_lists_keys_in_order_after_a_key_up_to_a_limit(self, store: ObjectStore, prefix: str) -> None:
        for name in ("b", "a/2", "a/1", "c"):
            await store.create_if_absent(f"{prefix}{name}", b"-")
        assert await store.keys(prefix) == [f"{prefix}{name}" for name in ("a/1", "a/2", "b", "c")]
        assert await store.keys(prefix, start_after=f"{prefix}a/1", limit=2) == [f"{prefix}a/2", f"{prefix}b"]
        assert await store.keys(f"{prefix}a/") == [f"{prefix}a/1", f"{prefix}a/2"]

    async def test_a_listing_tells_sizes_and_when_each_was_written(self, store: ObjectStore, prefix: str) -> None:
        for size in (0, 3):
            await store.create_if_absent(f"{prefix}{size}", b"-" * size)
        first, second = await store.listing(prefix)
        assert [(found.key, found.size) for found in (first, second)] == [(f"{prefix}0", 0), (f"{prefix}3", 3)]
        assert first.modified <= second.modified
        assert first.modified.tzinfo is not None
        assert await store.listing(prefix, start_after=f"{prefix}0", limit=1) == [second]

    async def test_lists_folders_once_each_and_no_plain_keys(self, store: ObjectStore, prefix: str) -> None:
        for name in ("acme/x", "acme/y/z", "acme-x/x", "plain"):
            await store.create_if_absent(f"{prefix}{name}", b"-")
        assert await store.folders(prefix) == ["acme", "acme-x"]

    async def test_deletes_and_does_not_mind_what_is_not_there(self, store: ObjectStore, prefix: str) -> None:
        await store.create_if_absent(f"{prefix}k", b"-")
        for _ in range(2):
            await store.delete(f"{prefix}k")
        assert await store.get(f"{prefix}k") is None
