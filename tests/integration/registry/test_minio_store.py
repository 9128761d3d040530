"""The store behind the S3 API keeps the contract on a real server, and says truly what it does not know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from services.registry import minio_store
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.minio_store import MinioObjectStore
from services.registry.object_store import Creation
from services.registry.seaweedfs import RunningStore
from tests.unit.registry.object_store_contract import ObjectStoreContract

pytestmark = pytest.mark.integration


def at(endpoint: str, *, access_key: str = "k", secret_key: str = "s" * 16) -> MinioObjectStore:
    return MinioObjectStore(
        endpoint=endpoint,
        access_key=access_key,
        secret_key=secret_key,
        bucket="looksmith",
        secure=False,
        region="us-east-1",
    )


@pytest.fixture
async def store(weed: RunningStore) -> AsyncIterator[MinioObjectStore]:
    async with weed.client() as store:
        yield store


class TestMinioObjectStore(ObjectStoreContract):
    pass


async def test_a_stream_that_is_given_up_leaves_the_store_usable(store: MinioObjectStore) -> None:
    await store.create_if_absent("given-up", b"x" * 1_000_000)
    stream = store.stream("given-up")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # it is an async generator
    assert await store.size("given-up") == 1_000_000


async def test_wrong_credentials_are_refused_by_name(weed: RunningStore) -> None:
    with pytest.raises(StoreRefused):
        async with at(weed.endpoint):
            pass


async def test_a_store_that_never_comes_up_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_store, "BUCKET_TRIES", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(StoreUnavailable):
            async with at(f"127.0.0.1:{closed.getsockname()[1]}"):
                pass


async def test_a_create_that_cannot_have_been_sent_is_unavailable_not_unknown() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnavailable):
            await at(f"127.0.0.1:{closed.getsockname()[1]}").create_if_absent("k", b"-")


async def test_a_create_whose_answer_is_lost_is_unknown() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert await at(f"{host}:{port}").create_if_absent("k", b"-") is Creation.UNKNOWN


@pytest.mark.parametrize("status", [b"409 Conflict", b"500 Internal Server Error", b"503 Slow Down"])
async def test_a_create_that_the_store_did_not_decide_is_unknown(status: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>SomeCode</Code><Message>later</Message></Error>"
        head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        writer.write(head + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert await at(f"{host}:{port}").create_if_absent("k", b"-") is Creation.UNKNOWN
