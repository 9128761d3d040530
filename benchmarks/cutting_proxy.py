"""A proxy before servers that cuts connections in the middle of what is sent to them, as bad networks do.

Knows bytes; nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

_READ_BYTES = 1 << 16


@asynccontextmanager
async def cutting_proxy(
    upstreams: Sequence[str], cuts: Iterator[int | None], *, on_cut: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """The address of a proxy on loopback that listens from entry to exit.

    Args:
        upstreams: addresses of servers; each connection goes to the next one.
        cuts: after how many bytes to its server each connection is cut, both ways at once; None: it stays whole, as do
            those that come when there are no more.
        on_cut: told just before.
    """
    turns = cycle(upstreams)
    open_now: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        """Until the end, or until so many bytes were passed on."""
        passed = 0
        while data := await reader.read(_READ_BYTES if most is None else min(_READ_BYTES, most - passed)):
            writer.write(data)
            await writer.drain()
            passed += len(data)
            if passed == most:
                on_cut()
                return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = next(turns).rpartition(":")
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(host, int(port))
            writers.append(back)
            open_now.update(writers)
            ways = [
                asyncio.create_task(pass_on(reader, back, next(cuts, None))),
                asyncio.create_task(pass_on(there, writer, None)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the server is gone, and so is this connection
        finally:
            for each in writers:
                open_now.discard(each)
                each.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for each in list(open_now):
            each.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.wait_closed()
