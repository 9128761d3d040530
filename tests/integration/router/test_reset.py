"""Workers are reset through a router while callers go on asking: real sessions, real workers, engines that pretend."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from looksmith.errors import error_from_rpc
from looksmith.nouns import AdapterUse, Brand, Tier
from looksmith.v1 import fleet_pb2 as pb
from looksmith.v1 import fleet_pb2_grpc, generation_pb2, generation_pb2_grpc
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.reset import ENGINE_LOST
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient, WorkerState
from services.router.compose import router
from services.router.consistent_hash import rank
from services.router.fleet import WorkerView
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import facts

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
LOADING_S = 0.2


class SlowToLoad(FakeEngine):
    """Takes so long to load that one can watch; while ``gate`` is closed, for ever."""

    gate = threading.Event()
    gate.set()

    def load(self) -> None:
        time.sleep(LOADING_S)
        self.gate.wait(30)


@dataclass
class System:
    """A router and its workers; ``engines`` are all that a worker had, as far as they are still there."""

    channel: grpc.aio.Channel
    addresses: dict[str, str] = field(default_factory=dict)
    engines: dict[str, list[weakref.ref[FakeEngine]]] = field(default_factory=dict)
    exits: list[tuple[str, int]] = field(default_factory=list)
    digest: str = "a" * 64  # of the recipe that new engines have

    @property
    def fleet(self) -> fleet_pb2_grpc.FleetServiceAsyncStub:
        return fleet_pb2_grpc.FleetServiceStub(self.channel)

    async def workers(self) -> dict[str, WorkerView]:
        return {view.name: view for view in await FleetClient(self.channel).list_workers()}

    async def seen(self, name: str, state: WorkerState) -> WorkerView:
        """A worker as the router has it, once it is in that state."""
        async with asyncio.timeout(10):
            while (view := (await self.workers()).get(name)) is None or view.state is not state:  # noqa: ASYNC110  # it tells only who asks
                await asyncio.sleep(0.01)
        return view

    async def reset(self, name: str, timeout: float = 10) -> pb.ResetWorkerResponse:
        return await self.fleet.ResetWorker(pb.ResetWorkerRequest(name=name, reason="a test"), timeout=timeout)

    async def paint(self, count: int = 1) -> list[generation_pb2.GenerateResponse]:
        stub: generation_pb2_grpc.ImageGenerationServiceAsyncStub = generation_pb2_grpc.ImageGenerationServiceStub(
            self.channel
        )
        request = generation_pb2.GenerateRequest(brand="acme", prompt="a kite", count=count)
        return [answer async for answer in stub.Generate(request, timeout=20)]


@asynccontextmanager
async def system(
    folder: Path, *names: str, step_s: float = 0.0, hang: threading.Event | None = None
) -> AsyncIterator[System]:
    """``hang``: a step of the first worker ends only once this is set."""
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
    digest, size = measured([b"no LoRA"])
    await registry.publish(PublishHeader("acme", "look", "studio", digest, size), [b"no LoRA"])
    recipe = folder / "studio.toml"
    recipe.write_text((ROOT / "deploy/recipes/studio.toml").read_text().replace("../../", f"{ROOT}/"))
    async with AsyncExitStack() as stack:
        settings = RouterSettings(name="r1", registry="unused", heartbeat_interval_s=0.2, lease_s=5, shutdown_grace_s=0)
        front = await stack.enter_async_context(router(settings, registry=registry))
        made = System(await stack.enter_async_context(grpc.aio.insecure_channel(front.address)))

        def exits(name: str, code: int) -> None:
            made.exits.append((name, code))

        for name in names:
            kept = made.engines.setdefault(name, [])

            def engine(kept: list[weakref.ref[FakeEngine]] = kept) -> FakeEngine:
                def sleep(seconds: float) -> None:
                    if seconds and hang and kept is made.engines[names[0]]:
                        hang.wait(30)
                    time.sleep(seconds)

                new = SlowToLoad([facts(digest=made.digest)], costs=Costs(step=step_s), sleep=sleep)
                kept.append(weakref.ref(new))
                return new

            painting = WorkerSettings.read(
                {
                    "WORKER_NAME": name,
                    "WORKER_REGISTRY": "unused",
                    "WORKER_DISK_CACHE": str(folder / name),
                    "WORKER_ROUTERS": front.address,
                    "WORKER_SHUTDOWN_GRACE_S": "0",
                    "WORKER_DRAIN_S": "5",
                    "WORKER_RECIPES": str(recipe),
                }
            )
            worker = await stack.enter_async_context(
                gpu_worker(
                    painting,
                    registry=registry,
                    new_engine=engine,
                    end_process=partial(exits, name),
                )
            )
            made.addresses[name] = worker.address
            await made.seen(name, WorkerState.READY)
        yield made


async def asking(made: System, stop: asyncio.Event) -> tuple[int, list[str]]:
    """One caller after the other, who never tries again: how many got their picture, and what others were told."""
    painted, failures = 0, []
    while not stop.is_set():
        try:
            answers = await made.paint()
        except grpc.aio.AioRpcError as error:
            failures.append(error_from_rpc(error).reason)
        else:
            painted += answers[-1].HasField("finished")
    return painted, failures


async def test_a_worker_is_reset_under_load_and_no_request_fails(tmp_path: Path) -> None:
    async with system(tmp_path, "w1", "w2", step_s=0.01) as made:
        stop = asyncio.Event()
        with capture_logs() as logs:
            callers = [asyncio.create_task(asking(made, stop)) for _ in range(8)]
            await asyncio.sleep(0.3)
            for name in ("w1", "w2"):
                done = await made.reset(name)
                assert (done.reset.phase, done.jobs_dropped, done.reset.problem) == (pb.RESET_PHASE_DONE, 0, "")
                assert LOADING_S < done.reset.duration.ToTimedelta().total_seconds() < 5
            stop.set()
            outcomes = await asyncio.gather(*callers)
        assert not [line for line in logs if line["event"] == "attempt.failed"], "no worker turned a job away"
        assert [failures for _, failures in outcomes] == [[]] * 8
        assert sum(painted for painted, _ in outcomes) > 20
        assert {view.state for view in (await made.workers()).values()} == {WorkerState.READY}
        for engines in made.engines.values():
            assert [engine() is None for engine in engines] == [True, False], "the old one is freed"


async def test_the_only_worker_is_reset_and_requests_wait_for_it(tmp_path: Path) -> None:
    async with system(tmp_path, "w1", step_s=0.05) as made:
        running = asyncio.create_task(made.paint(3))
        await asyncio.sleep(0.1)
        resetting = asyncio.create_task(made.reset("w1"))
        view = await made.seen("w1", WorkerState.RESETTING)
        assert view.heartbeat.reset
        assert not view.heartbeat.reset.phase.over
        while not running.done():  # noqa: ASYNC110  # its job is finished, not dropped
            await asyncio.sleep(0.01)
        late = asyncio.create_task(made.paint())
        async with grpc.aio.insecure_channel(made.addresses["w1"]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know no methods
            told = await health.Check(health_pb2.HealthCheckRequest())
        assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
        done = await resetting
        assert (done.reset.phase, done.jobs_dropped) == (pb.RESET_PHASE_DONE, 0)
        assert running.result()[-1].HasField("finished")
        (swapped,) = [answer.swapped for answer in await late if answer.HasField("swapped")]
        assert swapped.tier == generation_pb2.TIER_DISK, "files outlast a reset, the bank does not"


async def test_a_reset_shows_how_far_it_is_and_empties_what_the_engine_held(tmp_path: Path) -> None:
    async with system(tmp_path, "w1") as made:
        await made.paint()
        while not (before := (await made.workers())["w1"].heartbeat).slots_used:  # noqa: ASYNC110  # it tells who asks
            await asyncio.sleep(0.01)
        assert before.reset is None
        (digest,) = before.residency
        SlowToLoad.gate.clear()
        try:
            under_way = await made.reset("w1", timeout=1)  # it answers 0.3 s before
        finally:
            SlowToLoad.gate.set()
        assert under_way.reset.phase == pb.RESET_PHASE_REBUILDING
        again = await made.reset("w1")
        assert (again.reset.number, again.reset.phase) == (1, pb.RESET_PHASE_DONE), "one under way is not begun twice"
        view = await made.seen("w1", WorkerState.READY)
        assert view.heartbeat.residency == {digest: Tier.DISK}
        assert view.heartbeat.slots_used == 0
        assert (await made.reset("w1")).reset.number == 2


@pytest.mark.parametrize("others", [(), ("w2",)], ids=["alone", "beside another"])
async def test_a_worker_whose_engine_hangs_says_that_its_process_ends_once_its_jobs_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    monkeypatch.setattr("services.gpu_worker.progress.UNKNOWN_S", 0.3)
    monkeypatch.setattr("services.gpu_worker.engine_thread._END_S", 0.3)
    home, *rest = rank("acme", dict.fromkeys(("w1", *others), 1.0))
    hang = threading.Event()
    async with system(tmp_path, home, *rest, step_s=0.01, hang=hang) as made:
        try:
            stuck = asyncio.create_task(made.paint())
            while not (await made.workers())[home].heartbeat.running_jobs:  # noqa: ASYNC110  # it tells who asks
                await asyncio.sleep(0.02)
            done = await made.reset(home)
            assert done.reset.phase == pb.RESET_PHASE_PROCESS_ENDS
            assert "does not come back" in done.reset.problem
            assert made.exits == [(home, ENGINE_LOST)]
            if others:
                assert (await stuck)[-1].finished.worker == "".join(rest), "no request failed"
            else:
                with pytest.raises(grpc.aio.AioRpcError) as told:
                    await stuck
                assert error_from_rpc(told.value).retry_after_s, "nobody was there; its caller may try again"
        finally:
            hang.set()


async def test_a_draining_worker_is_not_reset(tmp_path: Path) -> None:
    async with system(tmp_path, "w1") as made:
        await made.fleet.DrainWorker(pb.DrainWorkerRequest(name="w1"), timeout=5)
        done = await made.reset("w1")
        assert done.reset.phase == pb.RESET_PHASE_REFUSED
        assert "drains" in done.reset.problem
        assert len(made.engines["w1"]) == 1


async def test_a_mistake_in_a_recipe_is_told_before_anything_is_given_up(tmp_path: Path) -> None:
    async with system(tmp_path, "w1") as made:
        (tmp_path / "studio.toml").write_text("name = 3")
        done = await made.reset("w1")
        assert done.reset.phase == pb.RESET_PHASE_REFUSED
        assert "studio.toml" in done.reset.problem
        assert (await made.paint())[-1].HasField("finished")
        assert len(made.engines["w1"]) == 1


async def test_a_worker_whose_recipe_has_changed_joins_anew_and_paints_with_the_new_one(tmp_path: Path) -> None:
    async with system(tmp_path, "w1") as made:
        made.digest = "f" * 64
        assert (await made.reset("w1")).reset.phase == pb.RESET_PHASE_DONE
        async with asyncio.timeout(5):
            while not (view := (await made.workers()).get("w1")) or not view.recipe(made.digest):  # noqa: ASYNC110  # it tells who asks
                await asyncio.sleep(0.02)
        assert (await made.paint())[-1].finished.recipe_digest == made.digest
