"""A proxy before an object store that loses answers and delivers late: what networks do, and often.

Knows when; nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from benchmarks.store_proxy import LONGEST_HEAD, answer_of, next_request


@dataclass
class Mischief:
    """How likely what is, and how often it was done."""

    lost_answers: float = 0.2
    """Of all requests: done by the store, and the connection then closed without a word."""
    late_puts: float = 0.05
    """Of all PUTs: the connection is closed at once, and the request reaches the store some time later."""
    late_by_s: tuple[float, float] = (0.05, 2.0)
    random: Random = field(default_factory=lambda: Random(1))
    requests: int = 0
    lost: int = 0
    late: int = 0


@asynccontextmanager
async def unreliable_proxy(port: int, store_port: int, mischief: Mischief) -> AsyncIterator[None]:
    """Listens on loopback from entry to exit; late requests are delivered before it is left."""
    late: set[asyncio.Task[bytes]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while request := await next_request(reader):
                mischief.requests += 1
                if request.startswith(b"PUT ") and mischief.random.random() < mischief.late_puts:
                    mischief.late += 1
                    task = asyncio.create_task(_forward_late(request, store_port, mischief))
                    late.add(task)
                    task.add_done_callback(late.discard)
                    break
                answer = await answer_of(store_port, request)
                if mischief.random.random() < mischief.lost_answers:
                    mischief.lost += 1
                    break
                writer.write(answer)
                await writer.drain()
                break  # the store was asked to close, and its answer may say so
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=LONGEST_HEAD)
    try:
        yield
    finally:
        server.close()
        await asyncio.gather(*late, return_exceptions=True)


async def _forward_late(request: bytes, port: int, mischief: Mischief) -> bytes:
    await asyncio.sleep(mischief.random.uniform(*mischief.late_by_s))
    return await answer_of(port, request)
