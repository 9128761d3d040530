"""Several streams as one, in the order in which they come. Knows nothing about what flows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Ends with the last of ``streams``, whichever of them fail, and with the first one's error if any; closes them.

    Holds one item of each, so that a slow reader slows all.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as alone:
            async for item in alone:
                yield item
        return
    handover: asyncio.Queue[tuple[T, asyncio.Event] | None] = asyncio.Queue()  # None: the end

    async def pump(stream: AsyncGenerator[T, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                taken = asyncio.Event()
                handover.put_nowait((item, taken))
                await taken.wait()

    async def end(pumps: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.wait(pumps)
        handover.put_nowait(None)

    pumps = [asyncio.create_task(pump(stream)) for stream in streams]
    ending = asyncio.create_task(end(pumps))
    try:
        while (handed := await handover.get()) is not None:
            item, taken = handed
            yield item
            taken.set()
        await asyncio.gather(*pumps)
    finally:
        for task in (*pumps, ending):
            task.cancel()
        await asyncio.gather(*pumps, ending, return_exceptions=True)
