"""What a router's records, its usage and its fairness account say of a mixed load: the same, brand by brand."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar

import grpc
import pytest
from structlog.testing import capture_logs

from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.engine.protocol import EngineJob
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient
from services.router.compose import router
from services.router.rate_limits import RateLimits
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import facts

pytestmark = pytest.mark.integration


class Breaking(FakeEngine):
    """Fails what it is told to, and withholds every other picture of what it is told to."""

    def start(self, job: EngineJob) -> None:
        if "fail" in job.prompt:
            raise ValueError("as told")
        super().start(job)


def blocks(job: EngineJob, image: int) -> bool:
    return "blocked" in job.prompt and image % 2 == 1


class Account(RateLimits):
    """Adds up what each brand has been charged, less what it was given back."""

    charged: ClassVar[defaultdict[str, float]] = defaultdict(float)

    def spend(self, brand: str, per_minute: float, gpu_seconds: float) -> None:
        self.charged[brand] += gpu_seconds
        super().spend(brand, per_minute, gpu_seconds)


@pytest.fixture
async def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[grpc.aio.Channel]:
    monkeypatch.setattr("services.router.compose.RateLimits", Account)
    monkeypatch.setattr(Account, "charged", defaultdict(float))
    registry = FakeRegistryClient()
    for brand in ("acme", "zenith"):
        await registry.put_brand(Brand(brand, default_adapters=(AdapterUse("look"),)))
        file = [brand.encode()]
        await registry.publish(PublishHeader(brand, "look", "studio", *measured(file)), file)
    async with AsyncExitStack() as stack:
        settings = RouterSettings(name="r1", registry="unused", shutdown_grace_s=0)
        front = await stack.enter_async_context(router(settings, registry=registry))
        for name in ("w1", "w2"):
            painting = WorkerSettings.read(
                {
                    "WORKER_NAME": name,
                    "WORKER_REGISTRY": "unused",
                    "WORKER_DISK_CACHE": str(tmp_path / name),
                    "WORKER_ROUTERS": front.address,
                    "WORKER_SHUTDOWN_GRACE_S": "0",
                }
            )
            engine = Breaking([facts()], costs=Costs(step=0.01), blocks=blocks)
            await stack.enter_async_context(gpu_worker(painting, registry=registry, engine=engine))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(front.address))
        while len(await FleetClient(channel).list_workers()) < 2:  # noqa: ASYNC110  # a router tells only who asks
            await asyncio.sleep(0.02)
        yield channel


async def ask(channel: grpc.aio.Channel, name: str, *, cancel: bool = False, **request: object) -> str:
    """How a request ended, by the caller's account; ``cancel``: it leaves at the first step."""
    stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
    asked = pb.GenerateRequest(**{"brand": "acme", "prompt": "a kite"} | request, request_id=name, report_steps=True)  # type: ignore[arg-type]  # any field
    call = stub.Generate(asked, timeout=20)
    try:
        async for answer in call:
            if cancel and answer.HasField("step"):
                call.cancel()
                return "CANCELLED"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_each_request_has_a_record_and_all_of_them_are_what_its_brand_was_charged(
    channel: grpc.aio.Channel,
) -> None:
    with capture_logs() as logs:
        shared = await ask(channel, "shared", brand="zenith", count=16)  # while nobody else is there
        ended = await asyncio.gather(
            *(ask(channel, f"plain-{i}", brand=("acme", "zenith")[i % 2], count=1 + i % 3) for i in range(12)),
            *(ask(channel, f"left-{i}", brand="zenith", count=4, cancel=True) for i in range(4)),
            *(ask(channel, f"blocked-{i}", prompt="a blocked kite", count=4) for i in range(3)),
            *(ask(channel, f"failed-{i}", prompt="fail") for i in range(2)),
            *(ask(channel, f"many-{i}", brand="zenith", count=12) for i in range(2)),
            ask(channel, "unknown", brand="nobody"),
            ask(channel, "wrong", steps=3),
        )
        ended.append(shared)
        fleet: fleet_pb2_grpc.FleetServiceAsyncStub = fleet_pb2_grpc.FleetServiceStub(channel)
        told = fleet_pb2.GetUsageResponse()
        async with asyncio.timeout(10):  # those that were left end a moment later at the router
            while len(told.records) < len(ended):
                told = await fleet.GetUsage(fleet_pb2.GetUsageRequest(records=100))
                await asyncio.sleep(0.05)
    records = {record.request_id: record for record in told.records}
    assert len(records) == len(told.records) == 26
    assert Counter(record.status for record in records.values()) == Counter(ended)
    assert Counter(ended)["OK"] == 18
    assert Counter(ended)["CANCELLED"] == 4

    # What callers were given, what brands are billed and what fairness has charged them
    for brand in ("acme", "zenith"):
        mine = [record for record in records.values() if record.brand == brand]
        (used,) = [each for each in told.usage if each.brand == brand]
        assert used.images == sum(record.images for record in mine)
        assert used.gpu_seconds == pytest.approx(sum(record.gpu_seconds for record in mine), rel=0.01)
        assert used.gpu_seconds == pytest.approx(Account.charged[brand], rel=0.01)
    assert not [each for each in told.usage if each.brand == "nobody"]
    assert [records[f"blocked-{i}"].images_blocked for i in range(3)] == [2] * 3
    assert all(0 < records[f"left-{i}"].gpu_seconds < 2 for i in range(4)), "the time that they had, no more"
    failed = [records[f"failed-{i}"] for i in range(2)]
    assert [(each.gpu_seconds, len(each.workers)) for each in failed] == [(0.0, 2)] * 2
    assert set(records["shared"].workers) == {"w1", "w2"}
    assert records["unknown"].reason == "BRAND_NOT_FOUND"
    assert not records["unknown"].workers

    # Each is a line in the log
    lines = [line for line in logs if line["event"] == "request.ended"]
    assert sum(line["images"] for line in lines) == sum(record.images for record in records.values())
