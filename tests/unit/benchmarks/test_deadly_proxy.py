"""A request at which the asker dies takes effect only where it should, and is answered to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from benchmarks.deadly_proxy import DeadlyProxy, Side, name_of

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def request(method: str, target: str, body: bytes = b"") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: store\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Store:
    """Answers alike whatever it is asked, and remembers it."""

    port: int = 0
    bodies: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def a_store() -> AsyncIterator[Store]:
    store = Store()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        store.bodies.append(await reader.readexactly(length))
        writer.write(ANSWER)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        store.port = server.sockets[0].getsockname()[1]
        yield store


async def answer(port: int, asked: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(asked)
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(("side", "done"), [(Side.BEFORE, [b"one"]), (Side.AFTER, [b"one", b"two"])])
async def test_the_fatal_request_is_done_or_not_and_never_answered(side: Side, done: list[bytes]) -> None:
    killed_when: list[list[bytes]] = []
    async with a_store() as store:
        proxy = DeadlyProxy(store.port, ignored=("noise/",))

        async def kill() -> None:
            killed_when.append([*store.bodies])

        async with proxy.listening():
            proxy.note(fatal=2, side=side, kill=kill)
            assert await answer(proxy.port, request("PUT", "/bucket/key-1", b"one")) == ANSWER
            assert not proxy.killed.is_set()
            assert await answer(proxy.port, request("PUT", "/bucket/key-2", b"two")) == b""
        assert (proxy.killed.is_set(), proxy.noted) == (True, ["PUT key-1", "PUT key-2"])
        assert killed_when == [store.bodies] == [done]


async def test_what_is_ignored_or_not_heeded_passes_and_is_not_counted() -> None:
    async with a_store() as store:
        proxy = DeadlyProxy(store.port, ignored=("noise/",))

        async def kill() -> None:
            raise AssertionError

        async with proxy.listening():
            proxy.note(heeded=lambda key: not key.startswith("theirs/"), fatal=1, kill=kill)
            assert await answer(proxy.port, request("PUT", "/bucket/noise/1", b"-")) == ANSWER
            assert await answer(proxy.port, request("PUT", "/bucket/theirs/1", b"-")) == ANSWER
            assert await answer(proxy.port, request("GET", "/bucket?list-type=2&prefix=noise%2F")) == ANSWER
        assert (proxy.killed.is_set(), proxy.noted) == (False, [])


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("HEAD", "/bucket/r1/b/acme/blobs/00", "HEAD r1/b/acme/blobs/00"),
        ("GET", "/bucket?delimiter=%2F&list-type=2&prefix=r1%2Fb%2F", "LIST r1/b/"),
        ("GET", "/bucket/?list-type=2&prefix=r1%2Fb%2Facme%2Fa%2F", "LIST r1/b/acme/a/"),
        ("PUT", "/bucket/a%20b?partNumber=1&uploadId=x", "PUT a b"),
        ("HEAD", "/bucket", "HEAD "),
    ],
)
def test_requests_are_known_by_method_and_key(method: str, target: str, name: str) -> None:
    assert name_of(request(method, target)) == name
