"""Adapter files on their way: received to disk while being judged, stored by digest, read back.

Knows bytes and digests; which version a file becomes is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from looksmith.lora import Inspection, LoraError
from services.registry import layout
from services.registry.errors import AdapterRefused, DigestMismatch, StoreUnavailable
from services.registry.judging import Judge
from services.registry.object_store import ObjectStore


@dataclass(frozen=True)
class Received:
    """A file that has passed, and where it lies until the context that made it is left."""

    path: Path
    inspection: Inspection


class Blobs:
    """Files by brand and digest."""

    def __init__(self, *, store: ObjectStore, spool_folder: Path | None) -> None:
        self._store, self._spool_folder = store, spool_folder

    @asynccontextmanager
    async def received(self, chunks: AsyncIterator[bytes], *, digest: str, judge: Judge) -> AsyncIterator[Received]:
        """Takes an upload to disk, judging it as it comes; the file is gone when the context is left.

        Raises:
            AdapterRefused: as early as the bytes so far allow.
            DigestMismatch: the bytes are not the announced ones.
        """
        with NamedTemporaryFile(dir=self._spool_folder, prefix="upload-") as file:

            def take(chunk: bytes) -> None:
                judge.feed(chunk)
                file.write(chunk)

            def finish() -> Inspection:
                file.flush()
                return judge.finish()

            try:
                async for chunk in chunks:
                    await asyncio.to_thread(take, chunk)  # hashing and scanning take a while
                inspection = await asyncio.to_thread(finish)
            except LoraError as error:
                raise AdapterRefused(error) from None
            if inspection.sha256 != digest:
                raise DigestMismatch(announced=digest, received=inspection.sha256)
            yield Received(Path(file.name), inspection)

    async def put(self, brand: str, received: Received) -> str:
        """Stores a file and returns its key, once the store shows it whole.

        Raises:
            StoreUnavailable: the file may or may not be there; nothing refers to it.
        """
        key = layout.blob(brand, received.inspection.sha256)
        await self._store.put_file(key, received.path)
        found = await self._store.size(key)
        if found != received.inspection.file_bytes:
            raise StoreUnavailable(f"it shows {found} bytes of a file of {received.inspection.file_bytes}")
        return key

    def read(self, key: str, *, offset: int, limit: int) -> AsyncIterator[bytes]:
        return self._store.stream(key, offset=offset, limit=limit)
