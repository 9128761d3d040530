"""Promote, rollback and yank at one registry replica, seen by a router and two workers that ask another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from looksmith.errors import FailedPrecondition, LooksmithError, NotFound
from looksmith.lora import table_to_json
from looksmith.nouns import AdapterRef, AdapterUse, Brand
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb
from services.chassis.channel import open_channel
from services.gpu_worker.client import WorkerClient
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import RegistryClient
from services.registry.compose import registry
from services.registry.seaweedfs import RunningStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.registry.parts import TABLE, header_for, lora_file

pytestmark = pytest.mark.integration

#: By when what was moved or withdrawn must act everywhere.
WITHIN_S = 2.0
FILES = {version: lora_file(str(version)) for version in (1, 2)}


@dataclass(frozen=True)
class System:
    """Changes are made at ``first``; router and workers ask the other replica."""

    first: RegistryClient
    router: str
    workers: dict[str, str]  # addresses, by name
    folder: Path


@asynccontextmanager
async def running(weed: RunningStore, folder: Path, bucket: str) -> AsyncIterator[System]:
    """acme/style in two versions, the first in production, and a fleet that takes 30 ms a step."""
    (folder / "bases").mkdir()
    (folder / "bases" / "tiny.json").write_text(table_to_json(TABLE))
    async with AsyncExitStack() as stack:
        replicas = []
        for name in ("one", "two"):
            settings = RegistrySettings.read(
                {
                    "REGISTRY_NAME": name,
                    "REGISTRY_STORE_ENDPOINT": weed.endpoint,
                    "REGISTRY_STORE_ACCESS_KEY": weed.access_key,
                    "REGISTRY_STORE_SECRET_KEY": weed.secret_key,
                    "REGISTRY_STORE_BUCKET": bucket,
                    "REGISTRY_BASES": str(folder / "bases"),
                    "REGISTRY_SHUTDOWN_GRACE_S": "0",
                }
            )
            replicas.append((await stack.enter_async_context(registry(settings))).address)
        front = await stack.enter_async_context(
            router(
                RouterSettings.read(
                    {"ROUTER_NAME": "r1", "ROUTER_REGISTRY": replicas[1], "ROUTER_SHUTDOWN_GRACE_S": "0"}
                )
            )
        )
        workers = {}
        for name in ("w1", "w2"):
            worker = WorkerSettings.read(
                {
                    "WORKER_NAME": name,
                    "WORKER_REGISTRY": replicas[1],
                    "WORKER_ROUTERS": front.address,
                    "WORKER_DISK_CACHE": str(folder / name),
                    "WORKER_SHUTDOWN_GRACE_S": "0",
                }
            )
            engine = FakeEngine([facts(family="tiny")], costs=Costs(step=0.03))
            workers[name] = (await stack.enter_async_context(gpu_worker(worker, engine=engine))).address
        first = RegistryClient(await stack.enter_async_context(open_channel(replicas[0])))
        await first.put_brand(Brand("acme", default_adapters=(AdapterUse("style"),)))
        for data in FILES.values():
            await first.publish(header_for(data), [data])
        look = await stack.enter_async_context(FleetClient.connect(front.address))
        async with asyncio.timeout(20):
            while len(await look.list_workers()) < len(workers):  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        yield System(first, front.address, workers, folder)


def pinned(version: int) -> pb.GenerateRequest:
    """What a router sends a worker for a request that was accepted with this version."""
    use = adapter_pb2.PinnedAdapter(
        adapter="style", version=version, digest=header_for(FILES[version]).digest, weight=1
    )
    pin = pb.Pinned(adapters=[use], recipe_digest="s" * 64, final_prompt="kite!", attempt=1, router="other")
    return pb.GenerateRequest(brand="acme", prompt="a kite", steps=1, pinned=pin)


def asked(**fields: int | str) -> pb.GenerateRequest:
    return pb.GenerateRequest(brand="acme", prompt="a kite", **({"steps": 1} | fields))  # type: ignore[arg-type]


def by_number(version: int) -> pb.GenerateRequest:
    use = adapter_pb2.AdapterUse(adapter="style", version=version)
    return pb.GenerateRequest(brand="acme", prompt="a kite", steps=1, adapters=[use])


@dataclass
class Told:
    """What a call told until it ended, and how it ended."""

    responses: list[pb.GenerateResponse] = field(default_factory=list)
    accepted_at: float = 0.0
    error: LooksmithError | None = None

    def of(self, kind: str) -> list[pb.GenerateResponse]:
        return [response for response in self.responses if response.WhichOneof("event") == kind]

    @property
    def version(self) -> int:
        (accepted,) = self.of("accepted")
        return accepted.accepted.adapters[0].version

    @property
    def reason(self) -> str:
        return self.error.reason if self.error else ""


async def ask(address: str, request: pb.GenerateRequest, told: Told | None = None) -> Told:
    told = told or Told()
    try:
        async with (
            grpc.aio.insecure_channel(address) as channel,
            WorkerClient(channel).generate(request, timeout_s=30) as call,
        ):
            async for response in call:
                if response.HasField("accepted"):
                    told.accepted_at = time.monotonic()
                told.responses.append(response)
    except LooksmithError as error:
        told.error = error
    return told


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for says nothing when it happens
            await asyncio.sleep(0.01)


async def seconds_until_refused(address: str, request: pb.GenerateRequest) -> tuple[float, LooksmithError]:
    """From now until an answer that is a refusal; requests until then are painted."""
    began = time.monotonic()
    async with asyncio.timeout(20):
        while (told := await ask(address, request)).error is None:  # noqa: ASYNC110  # it asks, it does not wait
            await asyncio.sleep(0.02)
    return time.monotonic() - began, told.error


async def test_after_a_forced_yank_every_worker_refuses_and_what_is_under_way_ends_after_its_picture(
    weed: RunningStore, tmp_path: Path
) -> None:
    async with running(weed, tmp_path, "forced-yank") as system:
        for address in system.workers.values():
            assert (await ask(address, pinned(1))).error is None
        long = Told()
        under_way = asyncio.create_task(
            ask(system.router, asked(count=16, steps=8, request_id="long", report_steps=True), long)
        )
        await until(lambda: len(long.of("step")) > 10)
        await system.first.yank("acme", "style", 1, force=True, reason="a face without consent")
        withdrawn = time.monotonic()
        took = await asyncio.gather(
            *(seconds_until_refused(address, pinned(1)) for address in system.workers.values()),
            seconds_until_refused(system.router, asked()),
        )
        await under_way
        ended = time.monotonic() - withdrawn
        # A retry is what a router remembers: it sends it to a worker, and passes on what that says.
        retry = await ask(system.router, asked(count=16, steps=8, request_id="long", report_steps=True))
        other = await ask(system.router, by_number(1))
        alive = await ask(system.router, by_number(2))
    for seconds, error in took:
        assert (type(error), error.reason, error.metadata) == (
            FailedPrecondition, "ADAPTER_YANKED", {"adapter": "acme/style@1"},
        )  # fmt: skip
        assert seconds < WITHIN_S
    assert long.reason == "ADAPTER_YANKED"
    assert ended < WITHIN_S
    done = {response.image_done.image for response in long.of("image_done")}
    begun = {response.step.image for response in long.of("step")}
    assert done == begun, "who began is finished and delivered"
    assert 0 < len(done) < 16
    assert {response.placed.attempt for response in long.of("placed")} == {1}, "no other worker was tried"
    assert retry.reason == other.reason == "ADAPTER_YANKED"
    assert not retry.of("image_done")
    assert {response.placed.attempt for response in retry.of("placed")} == {1}
    assert alive.error is None


Change = Callable[[RegistryClient], Awaitable[object]]


async def test_requests_accepted_two_seconds_after_an_alias_has_moved_get_what_it_names_now(
    weed: RunningStore, tmp_path: Path
) -> None:
    changes: list[tuple[Change, int]] = [
        (lambda first: first.promote(AdapterRef("acme", "style", 2)), 2),
        (lambda first: first.rollback("acme", "style"), 1),
        (lambda first: first.yank("acme", "style", 1, replacement=2, reason="the old logo"), 2),
    ]
    calls: list[Told] = []
    moved: list[float] = []

    async def keep_asking(address: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            calls.append(await ask(address, asked()))

    async with running(weed, tmp_path, "two-seconds") as system:
        stop = asyncio.Event()
        addresses = [system.router, *system.workers.values()]
        asking = [asyncio.create_task(keep_asking(address, stop)) for address in addresses]
        await asyncio.sleep(0.5)
        for change, _ in changes:
            await change(system.first)
            moved.append(time.monotonic())
            await asyncio.sleep(WITHIN_S + 1)
        stop.set()
        await asyncio.gather(*asking)
    assert [told.reason for told in calls if told.error] == []
    assert {told.version for told in calls if told.accepted_at < moved[0] - 0.2} == {1}
    for (_, version), since, until_ in zip(changes, moved, [*moved[1:], float("inf")], strict=True):
        settled = [told for told in calls if since + WITHIN_S < told.accepted_at < until_ - 0.2]
        assert len(settled) > len(addresses)
        assert {told.version for told in settled} == {version}


async def test_an_erased_brand_leaves_every_worker_within_two_seconds(weed: RunningStore, tmp_path: Path) -> None:
    async with running(weed, tmp_path, "erased") as system:
        for address in system.workers.values():
            assert (await ask(address, pinned(1))).error is None
        files = [system.folder / name / header_for(FILES[1]).digest for name in system.workers]
        assert all(file.exists() for file in files)
        await system.first.delete_brand("acme", confirm_name="acme")
        erased = time.monotonic()
        await until(lambda: not any(file.exists() for file in files))
        assert time.monotonic() - erased < WITHIN_S
        for address in (system.router, *system.workers.values()):
            _, error = await seconds_until_refused(address, asked() if address == system.router else pinned(1))
            assert (type(error), error.reason) == (NotFound, "BRAND_NOT_FOUND")
