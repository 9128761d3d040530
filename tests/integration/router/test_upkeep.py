"""What people have done at workers through a router: real sessions, real workers, and an engine that only pretends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.nouns import AdapterUse, Brand, Tier
from looksmith.v1 import adapter_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc
from looksmith.v1 import fleet_pb2 as pb
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient, WorkerState
from services.router.compose import router
from services.router.consistent_hash import rank
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import joined_worker
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.router.router_parts import DIGEST

pytestmark = pytest.mark.integration

Fleet: TypeAlias = "fleet_pb2_grpc.FleetServiceAsyncStub"  # the stubs have it for type checkers only
Painting: TypeAlias = "generation_pb2_grpc.ImageGenerationServiceAsyncStub"
LOOK = adapter_pb2.AdapterRef(brand="acme", adapter="look")
NAMES = ["w1", "w2", "w3"]


@pytest.fixture
async def registry() -> FakeRegistryClient:
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
    return registry


@pytest.fixture
async def digest(registry: FakeRegistryClient) -> str:
    """Of the adapter that acme has in production."""
    file = [b"no LoRA, but nobody here reads it"]
    digest, size = measured(file)
    await registry.publish(PublishHeader("acme", "look", "studio", digest, size), file)
    return digest


@pytest.fixture
async def channel(registry: FakeRegistryClient, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """To a router with three workers. Heartbeats are rare: what is told sooner, a change has brought."""
    async with AsyncExitStack() as stack:
        settings = RouterSettings(name="r1", registry="unused", heartbeat_interval_s=20, lease_s=60, shutdown_grace_s=0)
        front = await stack.enter_async_context(router(settings, registry=registry))
        for name in NAMES:
            painting = WorkerSettings.read(
                {
                    "WORKER_NAME": name,
                    "WORKER_REGISTRY": "unused",
                    "WORKER_DISK_CACHE": str(tmp_path / name),
                    "WORKER_ROUTERS": front.address,
                    "WORKER_SHUTDOWN_GRACE_S": "0",
                }
            )
            await stack.enter_async_context(gpu_worker(painting, registry=registry, engine=FakeEngine([facts()])))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(front.address))
        async with asyncio.timeout(10):
            while len(await FleetClient(channel).list_workers()) < len(NAMES):  # noqa: ASYNC110  # it tells only who asks
                await asyncio.sleep(0.02)
        yield channel


@pytest.fixture
def workers(channel: grpc.aio.Channel) -> FleetClient:
    return FleetClient(channel)


@pytest.fixture
def fleet(channel: grpc.aio.Channel) -> Fleet:
    return fleet_pb2_grpc.FleetServiceStub(channel)


@pytest.fixture
def painting(channel: grpc.aio.Channel) -> Painting:
    return generation_pb2_grpc.ImageGenerationServiceStub(channel)


async def where(workers: FleetClient, digest: str) -> dict[str, Tier]:
    return {worker.name: worker.tier(digest) for worker in await workers.list_workers()}


async def eventually(workers: FleetClient, digest: str, tiers: list[Tier]) -> None:
    """Returns once the workers hold it at these tiers, in the order of their names."""
    async with asyncio.timeout(5):
        while list((await where(workers, digest)).values()) != tiers:  # noqa: ASYNC110  # a router tells only who asks
            await asyncio.sleep(0.02)


async def refused(call: Awaitable[object]) -> LooksmithError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def test_warm_has_the_homes_really_fetch_the_adapter_and_says_who_holds_it(
    workers: FleetClient, fleet: Fleet, digest: str
) -> None:
    began = time.monotonic()
    warm = (await fleet.WarmAdapter(pb.WarmAdapterRequest(ref=LOOK), timeout=10)).workers
    assert time.monotonic() - began < 5  # not at the next heartbeat, which is 20 s away
    assert len(warm) == 2
    held = await where(workers, digest)
    assert {name for name, tier in held.items() if tier is Tier.HOST} == set(warm)
    everywhere = await fleet.WarmAdapter(pb.WarmAdapterRequest(ref=LOOK, homes=3), timeout=10)
    assert everywhere.workers == NAMES


async def test_evict_has_workers_forget_what_they_held_in_memory(
    workers: FleetClient, fleet: Fleet, digest: str
) -> None:
    await fleet.WarmAdapter(pb.WarmAdapterRequest(ref=LOOK, homes=3), timeout=10)
    assert (await fleet.EvictAdapter(pb.EvictAdapterRequest(worker="w2", digest=digest))).workers == ["w2"]
    await eventually(workers, digest, [Tier.HOST, Tier.DISK, Tier.HOST])
    assert (await fleet.EvictAdapter(pb.EvictAdapterRequest(digest=digest))).workers == NAMES
    await eventually(workers, digest, [Tier.DISK] * 3)


async def test_drain_has_a_worker_take_no_more_jobs_before_it_answers(workers: FleetClient, fleet: Fleet) -> None:
    done = await fleet.DrainWorker(pb.DrainWorkerRequest(name="w2", reason="a new driver"), timeout=10)
    assert done.jobs_left == 0
    states = {worker.name: worker.state for worker in await workers.list_workers()}
    assert states == {"w1": WorkerState.READY, "w2": WorkerState.DRAINING, "w3": WorkerState.READY}


async def test_a_worker_that_drains_leaves_its_adapters_to_the_next_in_line(
    workers: FleetClient, fleet: Fleet, painting: Painting, digest: str
) -> None:
    request = generation_pb2.GenerateRequest(brand="acme", prompt="a red kite")
    (home,) = [answer.placed.worker async for answer in painting.Generate(request) if answer.HasField("placed")]
    heir = next(name for name in rank("acme", dict.fromkeys(NAMES, 1.0)) if name != home)
    held = dict.fromkeys(NAMES, Tier.STORE) | {home: Tier.DEVICE}
    await eventually(workers, digest, list(held.values()))
    await fleet.DrainWorker(pb.DrainWorkerRequest(name=home), timeout=10)
    await eventually(workers, digest, list((held | {heir: Tier.HOST}).values()))


async def test_usage_counts_what_callers_were_given(fleet: Fleet, painting: Painting, digest: str) -> None:
    began = Timestamp()
    began.GetCurrentTime()
    request = generation_pb2.GenerateRequest(brand="acme", prompt="a red kite", count=3)
    (last,) = [answer.finished async for answer in painting.Generate(request) if answer.HasField("finished")]
    (used,) = (await fleet.GetUsage(pb.GetUsageRequest())).usage
    assert (used.brand, used.images) == ("acme", 3)
    assert used.gpu_seconds == pytest.approx(last.gpu_seconds)
    assert (await fleet.GetUsage(pb.GetUsageRequest(since=began))).usage == [used]
    assert not (await fleet.GetUsage(pb.GetUsageRequest(brand="harbour"))).usage


async def test_a_worker_that_obeys_nothing_is_named_while_its_caller_still_listens(address: str) -> None:
    async with (
        joined_worker(address, "w1"),
        joined_worker(address, "w2", residency={DIGEST: Tier.HOST}),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        late = await refused(stub.WarmAdapter(pb.WarmAdapterRequest(ref=LOOK), timeout=1))
        assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "NOT_WARM_IN_TIME")
        assert late.metadata == {"workers": "w1"}
        silent = await refused(stub.DrainWorker(pb.DrainWorkerRequest(name="w1"), timeout=1))
        assert (silent.code, silent.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DRAIN_NOT_CONFIRMED")
        silent = await refused(stub.ResetWorker(pb.ResetWorkerRequest(name="w1"), timeout=1))
        assert (silent.code, silent.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "RESET_NOT_CONFIRMED")


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("WarmAdapter", pb.WarmAdapterRequest(), "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("WarmAdapter", pb.WarmAdapterRequest(ref=LOOK), "UNAVAILABLE", "NO_WORKER"),
        ("DrainWorker", pb.DrainWorkerRequest(name="w9"), "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("EvictAdapter", pb.EvictAdapterRequest(digest="a"), "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("EvictAdapter", pb.EvictAdapterRequest(worker="w9", digest=DIGEST), "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("GetUsage", pb.GetUsageRequest(since=Timestamp(seconds=1)), "INVALID_ARGUMENT", "USAGE_NOT_KEPT"),
        ("GetUsage", pb.GetUsageRequest(since=Timestamp(seconds=2**60)), "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("ResetWorker", pb.ResetWorkerRequest(name="w9"), "NOT_FOUND", "WORKER_NOT_FOUND"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_can_not_be_done_is_refused_with_its_reason(
    address: str, method: str, request_: object, code: str, reason: str
) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        error = await refused(getattr(fleet_pb2_grpc.FleetServiceStub(channel), method)(request_, timeout=5))
    assert (error.code.name, error.reason) == (code, reason)
