"""Adapter files on this worker's disk, by digest: a byte budget, least recently used first to go, checked once a run.

Knows nothing about where bytes come from or what they mean.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from looksmith.nouns import is_digest
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.errors import DigestMismatch, DiskCacheFull, DiskFull

log = structlog.get_logger()

_PARTIAL = ".part"
#: No space, over the quota, over the largest size that the process may write.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskCache:
    """Files named by their digest. One that an earlier run left is checked before its first use in this one."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._checked: set[str] = set()
        self._pins: Counter[str] = Counter()
        self._partial_bytes = 0

    @property
    def bytes_used(self) -> int:
        return sum(self._sizes.values()) + self._partial_bytes

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(self._sizes)

    def open(self) -> None:
        """Finds what an earlier run left, oldest use first, and removes what it did not finish."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self._folder.glob(f"*{_PARTIAL}"):
            unfinished.unlink()
        files = [file for file in self._folder.iterdir() if is_digest(file.name)]
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
            self._sizes[file.name] = file.stat().st_size
        self._make_room(0)

    @contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        """Keeps a file, or room for it once it is there, from being evicted."""
        self._pins[digest] += 1
        try:
            yield
        finally:
            self._pins[digest] -= 1

    def is_pinned(self, digest: str) -> bool:
        return self._pins[digest] > 0

    def size_of(self, digest: str) -> int | None:
        return self._sizes.get(digest)

    def path(self, digest: str) -> Path:
        """Where a file is; using it makes it the last to go."""
        self._sizes.move_to_end(digest)
        path = self._folder / digest
        os.utime(path)
        return path

    async def write(self, digest: str, chunks: AsyncIterator[bytes]) -> int:
        """Writes a file that is not checked yet, and returns its size. On any error nothing stays behind.

        Raises:
            DiskCacheFull: it does not fit beside the pinned files.
            DiskFull: the disk has no room for it.
        """
        partial = self._folder / f"{digest}{_PARTIAL}"
        size = 0
        try:
            with partial.open("wb") as file:
                async for chunk in chunks:
                    if not self._make_room(len(chunk)):
                        raise DiskCacheFull(digest, self._limit)
                    size += len(chunk)
                    self._partial_bytes += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            partial.replace(self._folder / digest)
            self._sizes[digest] = size
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.error("disk.full", digest=digest, folder=str(self._folder), error=error.strerror)  # noqa: TRY400  # where it was raised is no news
            raise DiskFull(digest, error.strerror or str(error)) from error
        finally:
            self._partial_bytes -= size
            partial.unlink(missing_ok=True)
        return size

    def needs_check(self, digest: str) -> bool:
        return digest not in self._checked

    async def check(self, digest: str) -> None:
        """Compares a file with its name; one that differs is removed.

        Raises:
            DigestMismatch: it differs.
        """
        found = await asyncio.to_thread(file_digest, self._folder / digest)
        if found != digest:
            self.remove(digest)
            raise DigestMismatch(digest, found)
        self._checked.add(digest)

    def remove(self, digest: str) -> None:
        if self._sizes.pop(digest, None) is not None:
            self._checked.discard(digest)
            (self._folder / digest).unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        for digest in [d for d in self._sizes if not self._pins[d]]:
            if self.bytes_used + size <= self._limit:
                break
            log.info("adapter.evicted", digest=digest, tier="disk")
            self.remove(digest)
        return self.bytes_used + size <= self._limit
