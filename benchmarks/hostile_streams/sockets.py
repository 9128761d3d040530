"""Attacks by bytes on a socket: no HTTP/2 at all, HTTP/2 that is wrong, and HTTP/2 that is right and means harm.

Each says how many streams it has opened. That servers hang up on them is expected; what becomes of servers is looked
at elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

from benchmarks.hostile_streams import frames
from benchmarks.hostile_streams.doors import Door, Doors
from benchmarks.hostile_streams.frames import frame

#: Streams of a connection that are opened and reset at once (CVE-2023-44487).
RAPID = 100
#: Seconds for which a slow one is watched.
SLOW_S = 0.5
_TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(160)
_WINDOW_ZERO = frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)])
_GENERATE = "/looksmith.v1.ImageGenerationService/Generate"


@asynccontextmanager
async def _connected(door: Door) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, cut at the end; that the other side has cut it before is no error."""
    reader, writer = await asyncio.open_connection(*door.host)
    try:
        with suppress(ConnectionError):
            yield reader, writer
            await writer.drain()
    finally:
        writer.transport.abort()


async def _heard(reader: asyncio.StreamReader, seconds: float) -> None:
    """Reads what comes for so long, or until the other side hangs up."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while await reader.read(1 << 16):
                pass


async def no_http2(doors: Doors, draws: Random) -> int:
    lines = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        _TLS_HELLO,
        b"\0" * 4096,
        b"*1\r\n$4\r\nPING\r\n",
        draws.randbytes(900),
    )
    async with _connected(doors.any(draws)) as (reader, writer):
        writer.write(draws.choice(lines))
        await _heard(reader, draws.uniform(0, SLOW_S))
    return 1


async def half_a_preface(doors: Doors, draws: Random) -> int:
    """And nothing more, as a connection that has died does."""
    async with _connected(doors.any(draws)) as (reader, writer):
        writer.write(frames.PREFACE[: draws.randrange(len(frames.PREFACE))])
        await _heard(reader, SLOW_S)
    return 1


async def garbage_frames(doors: Doors, draws: Random) -> int:
    """Frames of any kind on any stream, of which some lie about their length."""
    streams = 0
    async with _connected(doors.any(draws)) as (reader, writer):
        writer.write(frames.PREFACE + frames.settings())
        for _ in range(draws.randint(1, 30)):
            payload, stream = draws.randbytes(draws.choice((0, 1, 4, 8, 100))), draws.choice((0, 1, 2, 3, 7, 2**31 - 1))
            length = draws.choice((None, None, None, 0, 16_384, 2**24 - 1))
            writer.write(frame(draws.randrange(12), payload, stream=stream, flags=draws.randrange(256), length=length))
            streams += stream > 0
        await writer.drain()
        await _heard(reader, draws.uniform(0, 0.2))
    return max(1, streams)


async def rapid_reset(doors: Doors, draws: Random) -> int:
    """Opens streams of good calls and resets each at once, so that no limit of open streams is met."""
    door = doors.any(draws)
    async with _connected(door) as (reader, writer):
        writer.write(frames.PREFACE + frames.settings())
        for number in range(RAPID):
            block, stream = frames.call_fields(draws.choice(door.methods)), 2 * number + 1
            writer.write(frame(frames.HEADERS, block, stream=stream, flags=frames.END_HEADERS))
            if draws.random() < 0.5:
                writer.write(frame(frames.DATA, frames.message(b""), stream=stream, flags=frames.END_STREAM))
            writer.write(frame(frames.RST_STREAM, frames.CANCEL.to_bytes(4), stream=stream))
        await writer.drain()
        await _heard(reader, 0.1)
    return RAPID


async def headers_without_end(doors: Doors, draws: Random) -> int:
    """One header block in continuations that never end."""
    async with _connected(doors.any(draws)) as (reader, writer):
        writer.write(frames.PREFACE + frames.settings())
        writer.write(frame(frames.HEADERS, frames.call_fields(_GENERATE), stream=1))
        for number in range(draws.randint(1, 200)):
            writer.write(frame(frames.CONTINUATION, frames.fields((f"x-{number}", "y" * 500)), stream=1))
        await writer.drain()
        await _heard(reader, 0.1)
    return 1


async def odd_headers(doors: Doors, draws: Random) -> int:
    """Calls that are none: of another content type, another HTTP method, no such path, another version of gRPC."""
    door = doors.any(draws)
    odd: tuple[dict[str, str], ...] = (
        {"content_type": "text/html"}, {"content_type": ""}, {":method": "GET"}, {":method": "CONNECT"},
        {"te": ""}, {"grpc_encoding": "brotli"}, {"grpc_timeout": "99999999999S"}, {"grpc_timeout": "-1S"},
        {"grpc_timeout": "1m"}, {":path": "/"}, {":path": ""}, {":path": "no path"}, {":path": "/" + "a" * 5000},
        {":scheme": "\0"}, {"grpc_trace_bin": "!"}, {"traceparent": "00-" + "0" * 32 + "-zz-01"}, {"Upper": "case"},
    )  # fmt: skip
    async with _connected(door) as (reader, writer):
        writer.write(frames.PREFACE + frames.settings())
        for number in range(10):
            block = frames.call_fields(draws.choice(door.methods), **draws.choice(odd))
            stream, end = 2 * number + 1, draws.choice((0, frames.END_STREAM))
            writer.write(frame(frames.HEADERS, block, stream=stream, flags=frames.END_HEADERS | end))
            lie = draws.choice((None, 0, 2**32 - 1, 10 * 2**20))
            writer.write(frame(frames.DATA, frames.message(b"x", length=lie), stream=stream, flags=frames.END_STREAM))
        await writer.drain()
        await _heard(reader, draws.uniform(0, 0.3))
    return 10


async def slow_writer(doors: Doors, draws: Random) -> int:
    """A good call, a few bytes at a time, given up in the middle."""
    door = doors.any(draws)
    block = frame(frames.HEADERS, frames.call_fields(draws.choice(door.methods)), stream=1, flags=frames.END_HEADERS)
    data = frames.PREFACE + frames.settings() + block + frame(frames.DATA, frames.message(b"", length=1000), stream=1)
    step = len(data) // draws.randint(5, 20) + 1
    async with _connected(door) as (reader, writer):
        for at in range(0, draws.randint(1, len(data)), step):
            writer.write(data[at : at + step])
            await writer.drain()
            await _heard(reader, 0.05)
    return 1


async def window_of_zero(doors: Doors, draws: Random) -> int:
    """A caller that takes no byte of any answer, and asks for more of them."""
    door = doors.any(draws)
    async with _connected(door) as (_, writer):
        writer.write(frames.PREFACE + _WINDOW_ZERO)
        for number in range(10):
            block = frames.call_fields(draws.choice(door.methods), grpc_timeout="1S")
            writer.write(frame(frames.HEADERS, block, stream=2 * number + 1, flags=frames.END_HEADERS))
            empty = frame(frames.DATA, frames.message(b""), stream=2 * number + 1, flags=frames.END_STREAM)
            writer.write(empty)
        await writer.drain()
        await asyncio.sleep(SLOW_S)  # reads nothing, so that the socket fills up, too
    return 10


#: Each with its weight: how often it is made beside others.
ATTACKS = {
    no_http2: 2.0,
    half_a_preface: 1.0,
    garbage_frames: 3.0,
    rapid_reset: 1.0,
    headers_without_end: 1.0,
    odd_headers: 3.0,
    slow_writer: 2.0,
    window_of_zero: 1.0,
}
