"""Takes one file in: judged in order as it comes, cut into parts, and each part stored while the next one comes.

Knows how much of a file is in memory at a time; what it may hold and where its parts go is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from looksmith.lora import Inspection, LoraError
from services.registry.errors import AdapterRefused, DigestMismatch
from services.registry.judging import Judge

#: Parts of one file that are in memory at a time: one that is being received, and others on their way to the store.
PARTS_IN_MEMORY = 3

#: Stores the part of a number, from 0, and returns its name; its bytes are others once it has returned.
Keep = Callable[[int, memoryview], Awaitable[str]]


@dataclass(frozen=True)
class TakenIn:
    """A file that has passed and is stored, and the names of its parts."""

    inspection: Inspection
    parts: tuple[str, ...]


async def take_in(
    chunks: AsyncIterator[bytes], *, judge: Judge, digest: str, size: int, part_bytes: int, keep: Keep
) -> TakenIn:
    """Takes a file in. Its last part is stored once all of it has been judged: nothing of a small bad one, that is.

    However this ends, parts that are on their way arrive first: who sends the rest later finds them there.

    Args:
        chunks: the file's bytes in order.
        judge: of this file.
        digest: what its bytes were announced to be.
        size: how many there were said to be.
        part_bytes: of all parts but the last.
        keep: stores parts.

    Raises:
        AdapterRefused: as early as the bytes so far allow.
        DigestMismatch: the bytes are not the announced ones.
    """
    parts = _Parts(size, part_bytes, keep)
    try:
        async with aclosing(_one_ahead(chunks)) as coming:
            async for chunk in coming:
                await parts.add(chunk)  # first, so that as little as can be is lost with the connection
                await asyncio.to_thread(judge.feed, chunk)  # hashing and scanning take a while
        inspection = await asyncio.to_thread(judge.finish)
        if inspection.sha256 != digest:
            raise DigestMismatch(announced=digest, received=inspection.sha256)
        return TakenIn(inspection, await parts.finish())
    except LoraError as error:
        raise AdapterRefused(error) from None
    finally:
        await parts.settle()


class _Parts:
    """Cuts what comes into parts.

    Their memory is used again and again: a heap that as many come from and go back to as a file has keeps more.
    """

    def __init__(self, size: int, part_bytes: int, keep: Keep) -> None:
        self._left, self._part_bytes, self._keep = size, min(size, part_bytes), keep
        self._buffer: bytearray | None = None
        self._filled = 0
        self._free: asyncio.Queue[bytearray] = asyncio.Queue()
        self._buffers = 0
        self._keeping: list[asyncio.Task[str]] = []

    async def add(self, chunk: bytes) -> None:
        """Takes the next bytes, as far as they were announced. Raises what became of earlier parts."""
        rest = memoryview(chunk)[: self._left]
        while rest:
            self._buffer = self._buffer or await self._another()
            here = rest[: self._part_bytes - self._filled]
            self._buffer[self._filled : self._filled + len(here)] = here
            self._filled += len(here)
            self._left -= len(here)
            rest = rest[len(here) :]
            if self._filled == self._part_bytes and self._left:
                self._hand_over(self._buffer)

    async def finish(self) -> tuple[str, ...]:
        """Names of all parts, once they are stored. Raises what became of them."""
        if self._buffer is not None or not self._keeping:
            self._hand_over(self._buffer or bytearray())
        return tuple(await asyncio.gather(*self._keeping))

    async def settle(self) -> None:
        """Waits for what is on its way."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    def _hand_over(self, buffer: bytearray) -> None:
        self._keeping.append(asyncio.create_task(self._kept(len(self._keeping), buffer, self._filled)))
        self._buffer, self._filled = None, 0

    async def _kept(self, index: int, buffer: bytearray, filled: int) -> str:
        try:
            return await self._keep(index, memoryview(buffer)[:filled])
        finally:
            self._free.put_nowait(buffer)

    async def _another(self) -> bytearray:
        if self._free.empty() and self._buffers < PARTS_IN_MEMORY:
            self._buffers += 1
            return bytearray(self._part_bytes)
        buffer = await self._free.get()
        for earlier in self._keeping:
            if earlier.done():
                earlier.result()
        return buffer


async def _one_ahead(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same chunks, each received while the one before is dealt with."""
    coming = asyncio.ensure_future(anext(chunks, None))
    try:
        while (chunk := await coming) is not None:
            coming = asyncio.ensure_future(anext(chunks, None))
            yield chunk
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
