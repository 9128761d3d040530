"""What every store of bases must do; run over the one in memory and over a real one."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import uuid4

import pytest

from looksmith.bases.errors import StoreRefused
from looksmith.bases.store import PIECE_BYTES, BaseStore


class Disappointing:
    """A source that fails before its end."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int, /) -> bytes:
        piece = bytes(min(size, self._left))
        self._left -= len(piece)
        if not self._left:
            raise ConnectionAbortedError("the file's disk went away")
        return piece


class BaseStoreContract:
    """Subclasses give the fixture ``store``. Keys get a prefix of their own, since a real store outlives a test."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"contract/{uuid4().hex}/"

    def test_what_was_put_is_there_whole_and_can_be_put_again(self, store: BaseStore, prefix: str) -> None:
        for content in (b"content", b"content", b""):
            store.put(f"{prefix}k", io.BytesIO(content), len(content))
            assert store.get(f"{prefix}k") == content
            assert store.size(f"{prefix}k") == len(content)

    def test_what_is_absent_is_none(self, store: BaseStore, prefix: str) -> None:
        assert store.get(f"{prefix}nothing") is None
        assert store.size(f"{prefix}nothing") is None
        assert store.listing(prefix) == []

    def test_reading_what_is_absent_is_refused(self, store: BaseStore, prefix: str) -> None:
        with pytest.raises(StoreRefused):
            list(store.read(f"{prefix}nothing"))

    def test_a_large_object_travels_in_parts_and_comes_back_in_pieces(self, store: BaseStore, prefix: str) -> None:
        data = bytes(range(256)) * (70 * PIECE_BYTES // 1024) + b"end"  # 17.5 MiB, more than one part
        store.put(f"{prefix}large", io.BytesIO(data), len(data))
        pieces = list(store.read(f"{prefix}large"))
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= PIECE_BYTES
        offset = len(data) - PIECE_BYTES - 5
        assert b"".join(store.read(f"{prefix}large", offset=offset)) == data[offset:]

    @pytest.mark.parametrize("size", [10, 20 << 20])
    def test_of_a_source_that_fails_nothing_is_written(self, store: BaseStore, prefix: str, size: int) -> None:
        with pytest.raises(ConnectionAbortedError):
            store.put(f"{prefix}k", Disappointing(size), size)
        assert store.size(f"{prefix}k") is None
        assert store.listing(prefix) == []

    def test_a_read_that_is_given_up_leaves_the_store_usable(self, store: BaseStore, prefix: str) -> None:
        data = b"x" * (3 * PIECE_BYTES)
        store.put(f"{prefix}k", io.BytesIO(data), len(data))
        for _ in range(3):
            reading = store.read(f"{prefix}k")
            next(iter(reading))
            reading.close()  # type: ignore[attr-defined]  # it is a generator
        assert store.get(f"{prefix}k") == data

    def test_lists_all_objects_in_order_with_sizes_and_times(self, store: BaseStore, prefix: str) -> None:
        for name in ("b", "a/2", "a/1"):
            store.put(f"{prefix}{name}", io.BytesIO(b"-" * len(name)), len(name))
        listed = store.listing(prefix)
        assert [(found.key, found.size) for found in listed] == [
            (f"{prefix}{name}", len(name)) for name in ("a/1", "a/2", "b")
        ]
        assert all(isinstance(found.modified, datetime) and found.modified.tzinfo for found in listed)
        assert [found.key for found in store.listing(f"{prefix}a/")] == [f"{prefix}a/1", f"{prefix}a/2"]

    def test_deletes_and_does_not_mind_what_is_not_there(self, store: BaseStore, prefix: str) -> None:
        store.put(f"{prefix}k", io.BytesIO(b"-"), 1)
        for _ in range(2):
            store.delete(f"{prefix}k")
        assert store.get(f"{prefix}k") is None

    def test_serves_several_threads(self, store: BaseStore, prefix: str) -> None:
        def work(i: int) -> bytes | None:
            data = bytes([i]) * 1000
            store.put(f"{prefix}{i}", io.BytesIO(data), len(data))
            return store.get(f"{prefix}{i}")

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(work, range(16))) == [bytes([i]) * 1000 for i in range(16)]
