"""Workers' sessions over real gRPC: how they begin, how they are answered, and every way in which they end."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TypeAlias

import grpc
import pytest

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.nouns import Tier
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from services.router.client import Ack, FleetClient, Heartbeat, MeasuredCost, Resync, Welcome, WorkerState
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import joined_worker
from tests.unit.router.router_parts import DIGEST, acme, registration

pytestmark = pytest.mark.integration

Fleet: TypeAlias = "fleet_pb2_grpc.FleetServiceAsyncStub"  # the stubs have it for type checkers only


async def names(client: FleetClient) -> list[str]:
    return [worker.name for worker in await client.list_workers()]


async def eventually_empty(client: FleetClient) -> float:
    """Seconds until the fleet was empty."""
    began = time.monotonic()
    for _ in range(250):
        if not await names(client):
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError("the worker never left")


async def test_worker_is_welcomed_heard_and_shown(address: str, settings: RouterSettings) -> None:
    cost = MeasuredCost("studio", (64, 64), rows=1, step_seconds=0.5, fixed_seconds=0.25)
    beat = Heartbeat(1, full=True, residency={DIGEST: Tier.HOST}, queued_jobs=2, slots=4, slots_used=1, costs=(cost,))
    async with FleetClient.connect(address) as client, client.join(registration()) as session:
        assert await anext(session) == Welcome("r1", settings.lease_s, settings.heartbeat_interval_s)
        await session.send(beat)
        assert await anext(session) == Ack(1)
        (worker,) = await client.list_workers()
    assert (worker.registration, worker.heartbeat, worker.state) == (registration(), beat, WorkerState.READY)


async def test_gap_in_heartbeats_is_answered_with_a_wish_for_a_full_one(address: str) -> None:
    async with FleetClient.connect(address) as client, client.join(registration()) as session:
        await session.send(Heartbeat(1, full=True))
        await session.send(Heartbeat(3, full=False))
        assert [type(await anext(session)) for _ in range(4)] == [Welcome, Ack, Ack, Resync]


async def test_worker_that_vanishes_leaves_at_once(address: str) -> None:
    async with FleetClient.connect(address) as client:
        async with joined_worker(address, "w1"):
            assert await names(client) == ["w1"]
        assert await eventually_empty(client) < 1  # the lease is 3 s


async def test_silent_worker_s_session_ends_with_its_lease(settings: RouterSettings) -> None:
    brief = settings.model_copy(update={"lease_s": 0.4})
    async with (
        router(brief, registry=acme()) as server,
        FleetClient.connect(server.address) as client,
        client.join(registration()) as session,
    ):
        await anext(session)
        with pytest.raises(LooksmithError) as caught:
            await anext(session)
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "LEASE_EXPIRED")
        assert await names(client) == []
        with pytest.raises(LooksmithError) as late:
            await session.send(Heartbeat(1, full=True))
        assert late.value.reason == "LEASE_EXPIRED"


async def test_second_session_of_a_name_replaces_the_first(address: str) -> None:
    async with (
        FleetClient.connect(address) as client,
        client.join(registration()) as first,
        client.join(registration(incarnation="i2")) as second,
    ):
        for session in (first, second):
            await anext(session)
        await first.send(Heartbeat(1, full=True))
        with pytest.raises(LooksmithError) as caught:
            await anext(first)
        assert caught.value.reason == "WORKER_REPLACED"
        (worker,) = await client.list_workers()
        assert worker.registration.incarnation == "i2"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"heartbeat": {}}], "SESSION_OUT_OF_ORDER"),
        ([{}], "SESSION_OUT_OF_ORDER"),
        ([{"registration": {"name": "W 1"}}], "INVALID_ARGUMENT"),
        ([{"registration": {"name": "w1", "incarnation": "i", "address": "h:1"}}], "INVALID_ARGUMENT"),
    ],
)
async def test_session_that_begins_wrongly_is_refused(
    fleet: Fleet, messages: list[dict[str, object]], reason: str
) -> None:
    call = fleet.Join(fleet_pb2.JoinRequest(**message) for message in messages)  # type: ignore[arg-type]  # fields by name
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in call]
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_second_registration_ends_the_session(address: str) -> None:
    async with FleetClient.connect(address) as client, client.join(registration()) as session:
        await anext(session)
        await session.send(registration())
        with pytest.raises(LooksmithError) as caught:
            await anext(session)
        assert caught.value.reason == "SESSION_OUT_OF_ORDER"
        assert await names(client) == []


async def test_stopping_router_does_not_wait_for_its_sessions(settings: RouterSettings) -> None:
    async with AsyncExitStack() as life:
        server = await life.enter_async_context(
            router(settings.model_copy(update={"shutdown_grace_s": 30}), registry=acme())
        )
        async with joined_worker(server.address, "w1"):
            await asyncio.wait_for(life.aclose(), 10)


async def test_worker_is_found_by_name(fleet: Fleet, address: str) -> None:
    async with joined_worker(address, "w1"):
        found = await fleet.GetWorker(fleet_pb2.GetWorkerRequest(name="w1"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fleet.GetWorker(fleet_pb2.GetWorkerRequest(name="w2"))
    assert found.worker.registration.name == "w1"
    assert error_from_rpc(caught.value).reason == "WORKER_NOT_FOUND"
