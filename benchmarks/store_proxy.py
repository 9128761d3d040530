"""What a proxy before an object store passes on: one request after the other, whole, and whole answers.

Knows HTTP as far as it must; what becomes of requests and answers is decided by whoever asks for them here.
"""

from __future__ import annotations

import asyncio

#: Bytes of the longest head of a request; to be given to asyncio.start_server as its limit.
LONGEST_HEAD = 1 << 16
_HEAD_END = b"\r\n\r\n"


async def next_request(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body, that asks for the connection to be closed; nothing where the caller has hung up."""
    try:
        head = await reader.readuntil(_HEAD_END)
    except asyncio.IncompleteReadError:
        return b""
    lines = [
        line for line in head.removesuffix(_HEAD_END).split(b"\r\n") if not line.lower().startswith(b"connection:")
    ]
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    body = await reader.readexactly(length)
    return b"\r\n".join([*lines, b"Connection: close"]) + _HEAD_END + body


async def answer_of(port: int, request: bytes) -> bytes:
    """All that the store on this port of loopback answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()
