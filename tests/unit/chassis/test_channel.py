"""A call through open_channel carries the caller's trace, can still be cancelled, and finds who was away for long."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id

from looksmith.v1 import brand_pb2, brand_pb2_grpc
from looksmith.v1 import registry_pb2 as pb
from looksmith.v1 import registry_pb2_grpc as rpc
from services.chassis.channel import open_channel
from services.chassis.guard import names_of
from services.chassis.security import dialling
from services.chassis.server import ServedApi, grpc_server
from services.chassis.settings import ServiceSettings
from tests.unit.chassis.authority import Authority


class Registry(rpc.AdapterRegistryServiceServicer):
    """Serves three calls, one of each kind; the other ones nobody makes."""

    def __init__(self) -> None:
        self.traces: list[str] = []
        self.cancelled = asyncio.Event()

    def _note(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self.traces.append(str(metadata["traceparent"]).split("-")[1])

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetAdapterResponse:
        self._note(context)
        return pb.GetAdapterResponse()

    async def DownloadAdapter(
        self, request: pb.DownloadAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DownloadAdapterResponse]:
        self._note(context)
        yield pb.DownloadAdapterResponse(chunk=b"x")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def PublishAdapter(
        self, request: AsyncIterator[pb.PublishAdapterRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PublishAdapterResponse:
        self._note(context)
        return pb.PublishAdapterResponse(already_existed=bool([part async for part in request]))


@asynccontextmanager
async def serving(registry: Registry) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    rpc.add_AdapterRegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def parts() -> AsyncIterator[pb.PublishAdapterRequest]:
    yield pb.PublishAdapterRequest(chunk=b"x")


async def test_every_kind_of_call_carries_the_trace() -> None:
    registry = Registry()  # type: ignore[abstract]  # the others nobody calls
    tracer = TracerProvider().get_tracer("test")
    async with serving(registry) as channel:
        stub = rpc.AdapterRegistryServiceStub(channel)
        with tracer.start_as_current_span("caller") as span:
            await stub.GetAdapter(pb.GetAdapterRequest())
            call = stub.DownloadAdapter(pb.DownloadAdapterRequest())
            assert [await anext(aiter(call))]
            call.cancel()
            assert (await stub.PublishAdapter(parts())).already_existed
        await asyncio.wait_for(registry.cancelled.wait(), 2)
    assert registry.traces == [format_trace_id(span.get_span_context().trace_id)] * 3


async def test_a_refusal_arrives_as_it_was_sent() -> None:
    async with serving(Registry()) as channel:  # type: ignore[abstract]  # likewise
        try:
            await brand_pb2_grpc.BrandServiceStub(channel).GetBrand(brand_pb2.GetBrandRequest())
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # noqa: PT017  # the code is the point
        else:
            raise AssertionError("nobody serves brands here")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow  # gRPC's own waits between tries are long only after an outage of 11 s
async def test_a_service_that_was_away_for_long_is_found_again_within_seconds() -> None:
    port, server = free_port(), grpc.aio.server()
    async with open_channel(f"127.0.0.1:{port}") as channel:

        async def found() -> bool:
            try:
                await brand_pb2_grpc.BrandServiceStub(channel).GetBrand(brand_pb2.GetBrandRequest(), timeout=1)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNIMPLEMENTED
            return True

        away_until = time.monotonic() + 11
        while time.monotonic() < away_until:
            assert not await found()
            await asyncio.sleep(0.1)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        back = time.monotonic()
        while not await found():  # noqa: ASYNC110  # a server does not say that it can be reached
            await asyncio.sleep(0.05)
        took = time.monotonic() - back
        await server.stop(0)
    assert took < 3


class Shown(ServiceSettings):
    env_prefix: ClassVar[str] = "SHOWN_"
    shutdown_grace_s: float = 0


class Slow(brand_pb2_grpc.BrandServiceServicer):
    """Tells the name in its caller's certificate; "wait" is answered once it is let."""

    def __init__(self) -> None:
        self.waits, self.let = asyncio.Event(), asyncio.Event()

    async def GetBrand(
        self, request: brand_pb2.GetBrandRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> brand_pb2.GetBrandResponse:
        if request.name == "wait":
            self.waits.set()
            await self.let.wait()
        return brand_pb2.GetBrandResponse(brand=brand_pb2.Brand(name=names_of(context)[-1]))


async def test_a_channel_shows_the_newest_certificate_and_lets_what_runs_come_to_its_end(tmp_path: Path) -> None:
    ca, servicer = Authority(tmp_path), Slow()  # type: ignore[abstract]  # the others nobody calls
    settings = Shown.read({"SHOWN_TLS_CA": str(ca.ca), **ca.issue("first", "127.0.0.1", file="mine").environ("SHOWN")})
    served = ServedApi("b", lambda server: brand_pb2_grpc.add_BrandServiceServicer_to_server(servicer, server))
    mutual = Shown.read({"SHOWN_TLS_CLIENT_CA": str(ca.ca), **ca.issue("shop", "127.0.0.1").environ("SHOWN")})
    async with (
        grpc_server(mutual, [served]) as server,
        open_channel(server.address, credentials=dialling(settings)) as channel,
    ):
        stub = brand_pb2_grpc.BrandServiceStub(channel)

        async def shown(name: str = "") -> str:
            return (await stub.GetBrand(brand_pb2.GetBrandRequest(name=name), timeout=10)).brand.name

        assert await shown() == "first"
        running = asyncio.create_task(shown("wait"))
        await servicer.waits.wait()
        ca.issue("second", "127.0.0.1", file="mine")
        assert await shown() == "second"
        servicer.let.set()
        assert await running == "first"
        assert await shown() == "second"
