"""Sessions against a real FleetService on port 0 that does as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from looksmith.nouns import Tier
from looksmith.v1 import fleet_pb2 as pb
from looksmith.v1 import generation_pb2
from services.gpu_worker.clock import Clock, steady_clock
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.engine.protocol import Engine
from services.gpu_worker.painter import Painter
from services.gpu_worker.session import RouterSession
from services.gpu_worker.tiers import AdapterTiers
from services.router.client import FleetClient, Registration
from tests.unit.gpu_worker.worker_parts import FilesRegistry, adapter_tiers, content, engine_job, eventually, facts


class Router:
    """Welcomes everyone, keeps what they say, and says what a test puts into ``commands``."""

    def __init__(self, *, interval_s: float = 30.0) -> None:
        self.interval_s = interval_s
        self.heard: list[pb.JoinRequest] = []
        self.sessions = 0
        self.commands: asyncio.Queue[pb.JoinResponse | None] = asyncio.Queue()  # None: the session ends

    @property
    def heartbeats(self) -> list[pb.WorkerHeartbeat]:
        return [message.heartbeat for message in self.heard if message.HasField("heartbeat")]

    async def join(
        self, request_iterator: AsyncIterator[pb.JoinRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.JoinResponse]:
        self.sessions += 1
        self.heard.append(await anext(request_iterator))
        welcome = pb.Welcome(router="r1")
        welcome.heartbeat_interval.FromNanoseconds(round(self.interval_s * 1e9))
        yield pb.JoinResponse(welcome=welcome)

        async def listen() -> None:
            async for message in request_iterator:
                self.heard.append(message)

        listening = asyncio.create_task(listen())
        try:
            while (command := await self.commands.get()) is not None:
                yield command
        finally:
            listening.cancel()


@asynccontextmanager
async def joined(
    folder: Path,
    router: Router,
    registry: FilesRegistry,
    *,
    engine: Engine | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[tuple[AdapterTiers, Painter]]:
    async with session_with(folder, router, registry, engine=engine, clock=clock) as (tiers, painter, _):
        yield tiers, painter


@asynccontextmanager
async def session_with(
    folder: Path,
    router: Router,
    registry: FilesRegistry,
    *,
    engine: Engine | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[tuple[AdapterTiers, Painter, RouterSession]]:
    server = grpc.aio.server()
    join = grpc.stream_stream_rpc_method_handler(
        router.join, pb.JoinRequest.FromString, pb.JoinResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("looksmith.v1.FleetService", {"Join": join}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with adapter_tiers(folder, registry, engine=engine, clock=clock) as (tiers, thread):
        painter = Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=4, clock=steady_clock())
        session = RouterSession(
            address=f"127.0.0.1:{port}",
            registration=Registration("w1", "i1", "127.0.0.1:1", (facts(),), engine="fake", device="cpu"),
            painter=painter,
            tiers=tiers,
            connect=FleetClient.connect,
            jitter=lambda: 0.0,
        )
        task = asyncio.create_task(session.run())
        try:
            yield tiers, painter, session
        finally:
            task.cancel()
            await asyncio.wait([task])
            await server.stop(0)


@pytest.fixture
def registry() -> FilesRegistry:
    return FilesRegistry()


async def test_registers_first_and_reports_in_full(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router()
    async with joined(tmp_path, router, registry):
        await eventually(lambda: router.heartbeats)
    assert router.heard[0].registration.name == "w1"
    assert router.heard[0].registration.recipes[0].steps == [1, 2, 4, 8]
    assert (router.heartbeats[0].sequence, router.heartbeats[0].full) == (1, True)


async def test_reports_as_often_as_the_router_wants(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router(interval_s=0.02)
    async with joined(tmp_path, router, registry):
        await eventually(lambda: len(router.heartbeats) >= 4)
    assert [beat.sequence for beat in router.heartbeats[:4]] == [1, 2, 3, 4]


async def test_fetches_ahead_when_told_and_reports_it_at_once(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router(interval_s=30)
    digest = registry.add(content("a"))
    async with joined(tmp_path, router, registry):
        await eventually(lambda: router.heartbeats)
        router.commands.put_nowait(pb.JoinResponse(prefetch=pb.Prefetch(brand="acme", digest=digest)))
        await eventually(
            lambda: any(r.tier == generation_pb2.TIER_HOST for beat in router.heartbeats for r in beat.residency)
        )
    assert not any(beat.full for beat in router.heartbeats[1:])


async def test_sends_everything_again_when_the_router_missed_something(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router()
    async with joined(tmp_path, router, registry):
        await eventually(lambda: router.heartbeats)
        router.commands.put_nowait(pb.JoinResponse(resync=pb.ResyncRequest()))
        await eventually(lambda: len(router.heartbeats) > 1)
    assert router.heartbeats[1].full


async def test_drains_when_told(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router()
    async with joined(tmp_path, router, registry) as (_, painter):
        await eventually(lambda: router.heartbeats)
        router.commands.put_nowait(pb.JoinResponse(drain=pb.Drain(reason="scaled away")))
        await eventually(lambda: len(router.heartbeats) > 1)
        assert painter.draining
    assert router.heartbeats[1].draining


async def test_reports_at_once_that_it_drains_and_knows_when_the_router_has_heard(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    router = Router(interval_s=30)
    async with session_with(tmp_path, router, registry) as (_, painter, session):
        await eventually(lambda: router.heartbeats)
        painter.drain()
        reporting = asyncio.create_task(session.report_now())
        await eventually(lambda: len(router.heartbeats) > 1)
        assert router.heartbeats[1].draining
        router.commands.put_nowait(pb.JoinResponse(ack=pb.HeartbeatAck(sequence=1)))
        await asyncio.sleep(0.05)
        assert not reporting.done(), "the first heartbeat did not say so"
        router.commands.put_nowait(pb.JoinResponse(ack=pb.HeartbeatAck(sequence=2)))
        await asyncio.wait_for(reporting, 2)


async def test_has_nobody_to_tell_that_it_drains_while_no_router_listens(tmp_path: Path) -> None:
    async with adapter_tiers(tmp_path, FilesRegistry()) as (tiers, thread):
        session = RouterSession(
            address="127.0.0.1:1",
            registration=Registration("w1", "i1", "127.0.0.1:1", (facts(),)),
            painter=Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=4, clock=steady_clock()),
            tiers=tiers,
            connect=FleetClient.connect,
            jitter=lambda: 0.0,
        )
        await asyncio.wait_for(session.report_now(), 0.5)


async def test_forgets_an_adapter_when_told(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router()
    digest = registry.add(content("a"))
    async with joined(tmp_path, router, registry) as (tiers, _):
        lease = tiers.lease("acme", [digest])
        await tiers.bring(lease)
        tiers.release(lease)
        await eventually(lambda: router.heartbeats)
        router.commands.put_nowait(pb.JoinResponse(evict=pb.Evict(digest=digest)))
        await eventually(lambda: tiers.residency() == {digest: Tier.DISK})


async def test_joins_anew_with_a_full_report_when_a_session_ends(tmp_path: Path, registry: FilesRegistry) -> None:
    router = Router()
    async with joined(tmp_path, router, registry):
        await eventually(lambda: router.heartbeats)
        router.commands.put_nowait(None)
        await eventually(lambda: router.sessions == 2 and len(router.heartbeats) == 2)
    assert (router.heartbeats[1].sequence, router.heartbeats[1].full) == (1, True)


async def test_waits_longer_each_time_while_a_router_is_out_of_reach(tmp_path: Path, registry: FilesRegistry) -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            enough.set()
            await asyncio.Event().wait()

    async with adapter_tiers(tmp_path, registry) as (tiers, thread):
        session = RouterSession(
            address="127.0.0.1:1",
            registration=Registration("w1", "i1", "127.0.0.1:1", (facts(),)),
            painter=Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=4, clock=steady_clock()),
            tiers=tiers,
            connect=FleetClient.connect,
            jitter=lambda: 1.0,
            sleep=sleep,
        )
        task = asyncio.create_task(session.run())
        await asyncio.wait_for(enough.wait(), 10)
        task.cancel()
        await asyncio.wait([task])
    assert waits == [0.4, 0.8, 1.6]


async def test_goes_on_reporting_while_its_engine_is_stuck_and_says_so(tmp_path: Path, registry: FilesRegistry) -> None:
    router, stuck, released = Router(interval_s=0.02), threading.Event(), threading.Event()
    now_ns = 0

    def hang(seconds: float) -> None:
        if seconds:
            stuck.set()
            released.wait(10)

    engine = FakeEngine([facts()], costs=Costs(step=1), sleep=hang)
    async with (
        joined(tmp_path, router, registry, engine=engine, clock=lambda: now_ns) as (_, painter),
        painter.running(),
        painter.painting(engine_job()),
    ):
        try:
            await eventually(stuck.is_set)
            for _ in range(100):  # more than a minute, seen second by second
                now_ns += 1_000_000_000
                heard = len(router.heartbeats)
                await eventually(lambda heard=heard: len(router.heartbeats) > heard + 1)
                if router.heartbeats[-1].HasField("stalled"):
                    break
            assert 60 <= router.heartbeats[-1].stalled.seconds <= 65
        finally:
            released.set()
        await eventually(lambda: not router.heartbeats[-1].HasField("stalled"))
