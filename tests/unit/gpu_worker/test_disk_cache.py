import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.errors import DigestMismatch, DiskCacheFull
from tests.unit.gpu_worker.worker_parts import content, digest_of

A, B, C = content("a"), content("b"), content("c")


async def pieces(data: bytes, size: int = 30) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def filled(folder: Path, *files: bytes, limit: int = 250) -> DiskCache:
    cache = DiskCache(folder, limit_bytes=limit)
    cache.open()
    for data in files:
        await cache.write(digest_of(data), pieces(data))
    return cache


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def age(folder: Path) -> None:
    """Makes every file as old as can be: a file system's clock ticks too slowly for a test."""
    for file in folder.iterdir():
        os.utime(file, (0, 0))


async def test_least_recently_used_file_makes_room(tmp_path: Path) -> None:
    cache = await filled(tmp_path, A, B)
    cache.path(digest_of(A))
    await cache.write(digest_of(C), pieces(C))
    assert set(cache.digests) == {digest_of(A), digest_of(C)}
    assert names_in(tmp_path) == sorted(cache.digests)


async def test_never_holds_more_than_its_budget_also_while_a_file_comes(tmp_path: Path) -> None:
    cache = await filled(tmp_path, A, B)
    most = 0

    async def watched() -> AsyncIterator[bytes]:
        nonlocal most
        async for piece in pieces(C):
            yield piece
            most = max(most, cache.bytes_used, bytes_in(tmp_path))

    await cache.write(digest_of(C), watched())
    assert 200 <= most <= 250


async def test_pinned_files_stay_and_what_does_not_fit_beside_them_leaves_nothing(tmp_path: Path) -> None:
    cache = await filled(tmp_path, A, B)
    with cache.pinned(digest_of(A)), cache.pinned(digest_of(B)), pytest.raises(DiskCacheFull):
        await cache.write(digest_of(C), pieces(C))
    assert set(cache.digests) == {digest_of(A), digest_of(B)}
    assert cache.bytes_used == 200
    assert len(names_in(tmp_path)) == 2


async def test_file_that_is_not_what_its_digest_says_is_removed(tmp_path: Path) -> None:
    cache = await filled(tmp_path)
    await cache.write(digest_of(A), pieces(B))
    with pytest.raises(DigestMismatch, match=digest_of(B)[:12]):
        await cache.check(digest_of(A))
    assert cache.digests == ()
    assert names_in(tmp_path) == []


async def test_restart_finds_files_oldest_use_first_and_drops_unfinished_ones(tmp_path: Path) -> None:
    before = await filled(tmp_path, A, B)
    age(tmp_path)
    before.path(digest_of(A))
    (tmp_path / f"{digest_of(C)}.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    after = await filled(tmp_path)
    assert after.digests == (digest_of(B), digest_of(A))
    assert names_in(tmp_path) == sorted([digest_of(A), digest_of(B), "notes.txt"])


async def test_restart_checks_what_it_finds_before_its_first_use(tmp_path: Path) -> None:
    before = await filled(tmp_path, A)
    await before.check(digest_of(A))
    assert not before.needs_check(digest_of(A))
    (tmp_path / digest_of(A)).write_bytes(content("rotten"))
    after = await filled(tmp_path)
    assert after.needs_check(digest_of(A))
    with pytest.raises(DigestMismatch):
        await after.check(digest_of(A))


async def test_restart_with_a_smaller_budget_keeps_what_fits(tmp_path: Path) -> None:
    before = await filled(tmp_path, A, B)
    age(tmp_path)
    before.path(digest_of(B))
    after = await filled(tmp_path, limit=150)
    assert after.digests == (digest_of(B),)
