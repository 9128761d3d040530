"""Who gets past the guard of a real server, how many calls at once, and what the audit log says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from looksmith.channel import bearer
from looksmith.errors import LooksmithError, NotFound, PermissionDenied, ResourceExhausted, error_from_rpc
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc
from services.chassis.server import ServedApi, grpc_server
from services.chassis.settings import ServiceSettings
from tests.unit.chassis.token_files import ALL, tokens_file

PROMPT = "a prompt that no log may hold"


class Settings(ServiceSettings):
    env_prefix: ClassVar[str] = "SHOP_"
    shutdown_grace_s: float = 0


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    """Knows one worker, w1."""

    async def DrainWorker(
        self, request: fleet_pb2.DrainWorkerRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fleet_pb2.DrainWorkerResponse:
        if request.name != "w1":
            raise NotFound("no such worker", reason="WORKER_NOT_FOUND")
        return fleet_pb2.DrainWorkerResponse()


class Painter(generation_pb2_grpc.ImageGenerationServiceServicer):
    """Accepts, and then takes its time."""

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        yield generation_pb2.GenerateResponse(accepted=generation_pb2.Accepted())
        await asyncio.sleep(30)


@asynccontextmanager
async def serving(tokens: Path | None = None, **given: Any) -> AsyncIterator[grpc.aio.Channel]:  # noqa: ANN401  # settings
    fleet = Fleet()  # type: ignore[abstract]  # the other calls nobody makes
    add_fleet, add_painter = (
        fleet_pb2_grpc.add_FleetServiceServicer_to_server,
        generation_pb2_grpc.add_ImageGenerationServiceServicer_to_server,
    )
    apis = [
        ServedApi("looksmith.v1.FleetService", lambda server: add_fleet(fleet, server)),
        ServedApi("looksmith.v1.ImageGenerationService", lambda server: add_painter(Painter(), server)),
    ]
    async with (
        grpc_server(Settings(tokens=tokens, **given), apis) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield channel


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    operator, painter = ("operator", ["operate"], ["*"]), ("painter", ["generate"], ["acme"])
    return tokens_file(tmp_path, operator, painter, ("other", ["generate"], ["acme"]))


async def drain(channel: grpc.aio.Channel, token: str, *, worker: str = "w1") -> LooksmithError | None:
    stub = fleet_pb2_grpc.FleetServiceStub(channel)
    request = fleet_pb2.DrainWorkerRequest(name=worker, reason=PROMPT)
    try:
        await stub.DrainWorker(request, timeout=5, metadata=bearer(token))
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error)
    return None


async def painting(channel: grpc.aio.Channel, token: str, *, brand: str = "acme") -> Any:  # noqa: ANN401  # a call
    """A call that has been accepted."""
    stub = generation_pb2_grpc.ImageGenerationServiceStub(channel)
    request = generation_pb2.GenerateRequest(brand=brand, prompt=PROMPT)
    call = stub.Generate(request, timeout=20, metadata=bearer(token))
    try:
        await anext(aiter(call))
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None
    return call


async def about_the_server(channel: grpc.aio.Channel, token: str) -> list[grpc.StatusCode | None]:
    """How health, channelz and reflection answer."""
    shown = bearer(token)
    untyped: Any = channel  # as these stubs would have it
    health: Any = health_pb2_grpc.HealthStub(untyped)
    channelz: Any = channelz_pb2_grpc.ChannelzStub(untyped)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")

    async def listed() -> None:
        async for _ in reflection.ServerReflectionInfo(iter([asked]), timeout=5, metadata=shown):
            return

    return [
        await _code(health.Check(health_pb2.HealthCheckRequest(), timeout=5, metadata=shown)),
        await _code(channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=5, metadata=shown)),
        await _code(listed()),
    ]


async def _code(call: Any) -> grpc.StatusCode | None:  # noqa: ANN401  # whatever can be awaited
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def test_health_is_everybodys_and_what_a_server_offers_is_for_whoever_is_known(tokens: Path) -> None:
    unknown = grpc.StatusCode.UNAUTHENTICATED
    async with serving(tokens) as channel:
        assert await about_the_server(channel, "") == [None, unknown, unknown]
        assert await about_the_server(channel, "stranger") == [None, unknown, unknown]
        assert await about_the_server(channel, "painter") == [None, None, None]
    async with serving() as channel:
        assert await about_the_server(channel, "") == [None, None, None]


async def test_a_method_that_no_rule_speaks_of_is_nobodys_where_callers_are_asked_who_they_are(tmp_path: Path) -> None:
    async def answer(request: bytes, context: object) -> bytes:
        return b"told"

    handlers: Any = {"Tell": grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)}
    api = ServedApi(
        "new.Service",
        lambda server: server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("new.Service", handlers),)
        ),
    )
    for settings, expected in (
        (Settings(tokens=tokens_file(tmp_path, ("all", ALL, ["*"]))), grpc.StatusCode.PERMISSION_DENIED),
        (Settings(), None),
    ):
        async with grpc_server(settings, [api]) as server, grpc.aio.insecure_channel(server.address) as channel:
            tell: Any = channel.unary_unary("/new.Service/Tell")
            assert await _code(tell(b"", metadata=bearer("all"))) is expected


async def test_a_withdrawn_token_is_refused_at_its_next_call_and_what_runs_goes_on(
    tokens: Path, tmp_path: Path
) -> None:
    async with serving(tokens) as channel:
        call = await painting(channel, "painter")
        tokens_file(tmp_path, ("operator", ["operate"], ["*"]))
        refused = await drain(channel, "painter")
        assert refused and refused.reason == "TOKEN_UNKNOWN"
        await asyncio.sleep(0.05)
        assert not call.done()


async def test_a_caller_has_so_many_calls_at_once_and_others_have_theirs(tokens: Path) -> None:
    async with serving(tokens, max_calls_per_caller=2) as channel, AsyncExitStack() as running:
        for _ in range(2):
            running.callback((await painting(channel, "painter")).cancel)
        with pytest.raises(ResourceExhausted) as caught:
            await painting(channel, "painter")
        assert (caught.value.reason, caught.value.retry_after_s) == ("TOO_MANY_CALLS", 1.0)
        (await painting(channel, "other")).cancel()
        await running.aclose()
        async with asyncio.timeout(5):
            while True:
                try:
                    (await painting(channel, "painter")).cancel()
                    break
                except ResourceExhausted:
                    await asyncio.sleep(0.01)


async def test_callers_without_a_name_are_counted_by_host() -> None:
    async with serving(max_calls_per_caller=1) as channel:
        call = await painting(channel, "")
        with pytest.raises(ResourceExhausted):
            await painting(channel, "")
        call.cancel()


async def test_more_metadata_than_fits_is_refused(tokens: Path) -> None:
    async with serving() as channel:
        refused = await drain(channel, "x" * 20_000)
        assert refused and refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await drain(channel, "x" * 4000) is None


async def test_every_change_and_every_try_at_one_is_a_line_of_the_audit_log(tokens: Path) -> None:
    async with serving(tokens) as channel:
        with capture_logs([merge_contextvars]) as lines:
            assert await drain(channel, "operator") is None
            for token, worker in (("operator", "w2"), ("painter", "w1"), ("stranger", "w1")):
                assert await drain(channel, token, worker=worker)
            with pytest.raises(PermissionDenied):
                await painting(channel, "operator")
    told = [(line.get("caller"), line["outcome"], line.get("worker")) for line in lines if line["event"] == "audit"]
    assert told == [
        ("operator", "OK", "w1"),
        ("operator", "WORKER_NOT_FOUND", "w2"),
        ("painter", "NOT_ALLOWED", None),
        (None, "TOKEN_UNKNOWN", None),
    ]
    assert {line["rpc"] for line in lines if line["event"] == "audit"} == {"looksmith.v1.FleetService/DrainWorker"}
    assert PROMPT not in str(lines)
