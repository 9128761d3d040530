from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from looksmith.errors import Internal
from looksmith.nouns import Tier
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    ImageTask,
    JobDone,
    StepDone,
)
from services.gpu_worker.engine.timed import TimedEngine
from services.gpu_worker.engine.timed_costs import TimedCosts
from services.gpu_worker.errors import DigestMismatch, Superseded, WorkerDraining, WorkerFull
from services.gpu_worker.painter import Bound, JobEvent, Painter, Painting
from services.gpu_worker.router_books import IDLE_KEPT
from tests.unit.gpu_worker.worker_parts import FilesRegistry, adapter_tiers, content, engine_job, eventually, facts


class SteppedEngine(FakeEngine):
    """Does a step for each that a test allows, and remembers the order of jobs."""

    def __init__(
        self, allowed: int = 10_000, *, blocks: Callable[[EngineJob, int], bool] = lambda _job, _image: False
    ) -> None:
        self.gate = threading.Semaphore(allowed)
        self.started: list[str] = []
        self.steps_begun = 0
        super().__init__([facts()], costs=Costs(step=1), sleep=self._step, blocks=blocks)

    def start(self, job: EngineJob) -> None:
        self.started.append(job.id)
        super().start(job)

    def _step(self, seconds: float) -> None:
        if seconds:
            self.steps_begun += 1
            self.gate.acquire(timeout=5)


@asynccontextmanager
async def painting(
    folder: Path, registry: FilesRegistry, engine: FakeEngine | TimedEngine, *, max_queued: int = 100
) -> AsyncIterator[Painter]:
    async with adapter_tiers(folder, registry, engine=engine) as (tiers, thread):
        painter = Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=max_queued, clock=steady_clock())
        async with painter.running():
            try:
                yield painter
            finally:
                if isinstance(engine, SteppedEngine):
                    engine.gate.release(10_000)


async def events_of(painter: Painter, job: EngineJob, *, router: str = "") -> list[JobEvent]:
    async with painter.painting(job, router=router, request_id=job.id) as mine:
        return [event async for event in mine.events]


@pytest.fixture
def registry() -> FilesRegistry:
    return FilesRegistry()


async def test_a_job_is_bound_stepped_painted_and_done_in_this_order(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    async with painting(tmp_path, registry, FakeEngine([facts()])) as painter:
        events = await events_of(painter, engine_job("j1", digest))
    kinds = [type(e) for e in events if isinstance(e, Bound | StepDone | ImageReady | JobDone)]
    assert kinds == [Bound, *[StepDone] * 4, ImageReady, JobDone]
    bound = next(e for e in events if isinstance(e, Bound))
    assert (bound.swap.tier, bound.swap.fetched_bytes) == (Tier.STORE, 100)
    assert bound.swap.hidden_s == 0, "the engine was free: everything was waited for"
    assert bound.swap.visible_s > 0


async def test_a_swap_that_passes_while_another_job_is_painted_is_hidden(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    first, second = registry.add(content("a")), registry.add(content("b"))
    engine = SteppedEngine(allowed=0)
    async with painting(tmp_path, registry, engine) as painter:
        running = asyncio.create_task(events_of(painter, engine_job("j1", first)))
        await eventually(lambda: engine.started)
        waiting = asyncio.create_task(events_of(painter, engine_job("j2", second)))
        await eventually(lambda: not painter._thread._commands.empty())
        engine.gate.release(1)  # the copy goes between two steps of the first job
        await eventually(lambda: second in engine.placements)
        engine.gate.release(100)
        await running
        bound = next(e for e in await waiting if isinstance(e, Bound))
    bind = bound.swap.stages[-1]
    assert bound.swap.visible_s == pytest.approx((bind.end_ns - bind.start_ns) / 1e9)
    assert bound.swap.hidden_s > 0
    assert bound.wait_end_ns > bound.wait_start_ns


async def test_a_slow_download_blocks_no_job_whose_adapter_is_here(tmp_path: Path, registry: FilesRegistry) -> None:
    slow, quick = registry.add(content("slow")), registry.add(content("quick"))
    gate = registry.hold(slow)
    async with painting(tmp_path, registry, FakeEngine([facts()])) as painter:
        stuck = asyncio.create_task(events_of(painter, engine_job("slow", slow, brand="slow")))
        await eventually(lambda: registry.downloads[slow])
        assert await events_of(painter, engine_job("quick", quick, brand="quick"))
        assert not stuck.done()
        gate.set()
        assert await stuck


async def test_brands_take_turns_whoever_came_first(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine(allowed=0)
    async with painting(tmp_path, registry, engine) as painter:
        first = asyncio.create_task(events_of(painter, engine_job("first", brand="big")))
        await eventually(lambda: engine.started)
        jobs = [engine_job(f"big{i}", brand="big") for i in range(3)] + [engine_job("small0", brand="small")]
        waiting = [asyncio.create_task(events_of(painter, job)) for job in jobs]
        await eventually(lambda: painter.queued_jobs == 4)
        engine.gate.release(100)
        await asyncio.gather(first, *waiting)
    # big0 was staged behind the first job before the others came.
    assert engine.started in (["first", "big0", "small0", "big1", "big2"], ["first", "small0", "big0", "big1", "big2"])


async def test_a_job_that_is_left_stops_within_one_step(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine(allowed=2)
    async with painting(tmp_path, registry, engine) as painter:
        job = engine_job(images=tuple(ImageTask(i, i) for i in range(16)), steps=8)
        async with painter.painting(job) as mine:
            async for event in mine.events:
                if isinstance(event, StepDone) and event.step == 2:
                    break
        assert painter.running_jobs == 0
        engine.gate.release(1000)
        assert await events_of(painter, engine_job("next", steps=1))
        # Two steps were seen, one may have been under way, and one belongs to the next job.
        assert engine.steps_done <= 4


async def test_a_job_that_is_left_while_it_waits_never_starts(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine(allowed=0)
    async with painting(tmp_path, registry, engine) as painter:
        first = asyncio.create_task(events_of(painter, engine_job("first")))
        await eventually(lambda: engine.started)
        waiting = [asyncio.create_task(events_of(painter, engine_job(f"w{i}"))) for i in range(3)]
        await eventually(lambda: painter.queued_jobs == 3)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.wait(waiting[:2])
        assert painter.queued_jobs == 1
        engine.gate.release(100)
        await asyncio.gather(first, waiting[2])
    assert engine.started == ["first", "w2"]


async def test_a_job_left_during_its_download_frees_its_place(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    registry.hold(digest)
    async with painting(tmp_path, registry, FakeEngine([facts()])) as painter:
        task = asyncio.create_task(events_of(painter, engine_job("j1", digest)))
        await eventually(lambda: registry.downloads[digest])
        task.cancel()
        await asyncio.wait([task])
        assert painter.queued_jobs == 0


async def test_full_worker_refuses_and_names_a_time_from_what_jobs_cost(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = SteppedEngine(allowed=0)
    async with painting(tmp_path, registry, engine, max_queued=1) as painter:
        tasks = [asyncio.create_task(events_of(painter, engine_job("first")))]
        await eventually(lambda: engine.started)
        for name in ("staged", "queued"):
            tasks.append(asyncio.create_task(events_of(painter, engine_job(name))))
            await eventually(lambda: painter.queued_jobs == len(tasks) - 1)
            await eventually(lambda: len(painter._queue) == len(tasks) - 2)
        with pytest.raises(WorkerFull) as caught:
            await events_of(painter, engine_job("one more"))
        assert caught.value.retry_after_s
        engine.gate.release(100)
        await asyncio.gather(*tasks)


async def test_draining_worker_finishes_its_jobs_and_takes_no_more(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine(allowed=0)
    async with painting(tmp_path, registry, engine) as painter:
        running = asyncio.create_task(events_of(painter, engine_job("first")))
        await eventually(lambda: engine.started)
        painter.drain()
        with pytest.raises(WorkerDraining):
            await events_of(painter, engine_job("second"))
        engine.gate.release(100)
        assert isinstance((await running)[-1], JobDone)


async def test_adapter_that_can_t_be_had_fails_its_job_alone_and_is_remembered(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    registry.served[digest] = content("b")
    async with painting(tmp_path, registry, FakeEngine([facts()])) as painter:
        with pytest.raises(DigestMismatch):
            await events_of(painter, engine_job("bad", digest))
        assert await events_of(painter, engine_job("good"))
        assert [mishap.reason for mishap in painter.mishaps] == ["DIGEST_MISMATCH"]
        assert painter.queued_jobs == painter.running_jobs == 0


async def test_engine_that_breaks_fails_what_runs_and_goes_on_with_the_next(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    class Fragile(FakeEngine):
        def _paint(self, job: EngineJob):  # type: ignore[no-untyped-def]  # noqa: ANN202  # as the method it replaces
            if job.id == "bad":
                raise MemoryError("out of it")
            return super()._paint(job)

    async with painting(tmp_path, registry, Fragile([facts()])) as painter:
        with pytest.raises(Internal):
            await events_of(painter, engine_job("bad"))
        assert await events_of(painter, engine_job("good"))


async def test_a_job_can_be_ended_from_outside_with_an_error(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine(allowed=1)
    async with painting(tmp_path, registry, engine) as painter:
        async with painter.painting(engine_job()) as mine:
            while not isinstance(await anext(mine.events), StepDone):
                pass
            mine.give_up(Superseded("r1"))
            with pytest.raises(Superseded):
                await anext(mine.events)
        assert painter.running_jobs == 0
        assert not painter.mishaps, "nothing went wrong"


async def steps(painting: Painting, count: int) -> None:
    while count:
        count -= isinstance(await anext(painting.events), StepDone)


async def left(painting: Painting) -> list[int]:
    """Images that are still painted until the job ends as superseded."""
    images = []
    try:
        async for event in painting.events:
            images += [event.image] if isinstance(event, ImageReady) else []
    except Superseded:
        return images
    raise AssertionError("it ended as if all were painted")


SIXTEEN = tuple(ImageTask(i, i) for i in range(16))


async def test_a_curtailed_job_paints_what_has_begun_and_then_ends_with_the_error(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = SteppedEngine(allowed=6)
    async with painting(tmp_path, registry, engine) as painter:
        async with painter.painting(engine_job(images=SIXTEEN)) as mine:
            await steps(mine, 6)
            await eventually(lambda: engine.steps_begun == 7)
            curtailing = asyncio.create_task(mine.curtail(Superseded("r1")))
            await eventually(lambda: not painter._thread._commands.empty())
            engine.gate.release(100)
            await curtailing
            assert await left(mine) == [1], "the first was painted before"
        assert engine.steps_done == 8
        assert painter.running_jobs == 0
        assert not painter.mishaps, "nothing went wrong"
        assert painter.costs.known() == (), "of a part of a job, a job's costs can't be told"
        assert await events_of(painter, engine_job("next"))


async def test_a_blocked_picture_counts_as_one_of_its_job_s_that_then_ends_well(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = SteppedEngine(allowed=6, blocks=lambda _job, image: image == 0)
    async with painting(tmp_path, registry, engine) as painter:
        async with painter.painting(engine_job(images=SIXTEEN[:2])) as mine:
            events = [await anext(mine.events)]
            while not isinstance(events[-1], StepDone) or (events[-1].image, events[-1].step) != (1, 2):
                events.append(await anext(mine.events))
            curtailing = asyncio.create_task(mine.curtail(Superseded("r1")))
            await eventually(lambda: not painter._thread._commands.empty())
            engine.gate.release(100)
            await curtailing
            events += [event async for event in mine.events]
        assert [type(e) for e in events if isinstance(e, ImageBlocked | ImageReady)] == [ImageBlocked, ImageReady]
        assert isinstance(events[-1], JobDone), "all its pictures had begun: there was nothing left to curtail"
        assert not painter.mishaps


async def test_a_router_whose_job_is_here_is_not_forgotten_for_others(tmp_path: Path, registry: FilesRegistry) -> None:
    async with (
        painting(tmp_path, registry, SteppedEngine(allowed=0)) as painter,
        painter.painting(engine_job("busy"), router="busy", request_id="first"),
    ):
        for i in range(2 * IDLE_KEPT):
            async with painter.painting(engine_job(f"j{i}"), router=f"r{i}", request_id="other"):
                pass
        routers = [booked.router for booked in painter.booked()]
    assert routers[0] == "busy"
    assert len(routers) == IDLE_KEPT + 2, "the last one's job was here when it was noted"


async def test_learns_what_a_step_takes_alone_and_in_a_full_batch(tmp_path: Path, registry: FilesRegistry) -> None:
    costs = TimedCosts.measured(0.1)
    engine = TimedEngine([facts()], costs=costs, batch_sizes=(1, 2, 4), slots=6, clock=steady_clock())
    async with painting(tmp_path, registry, engine) as painter:
        await events_of(painter, engine_job("four", images=SIXTEEN[:4]))
        await events_of(painter, engine_job("pinned", reproducible=True))
        assert [cost.rows for cost in painter.costs.known()] == [4], "a pinned one is stepped in a padded batch"
        await events_of(painter, engine_job("alone"))
        alone, four = painter.costs.known()
    assert (alone.rows, four.rows) == (1, 4)
    assert alone.step_s == pytest.approx(costs.step.at(1), rel=0.5)
    assert four.step_s == pytest.approx(costs.step.at(4), rel=0.5)
    assert alone.step_s < four.step_s < 4 * alone.step_s


async def test_a_curtailed_job_that_waits_ends_at_once_and_never_starts(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine, stuck = SteppedEngine(allowed=1), registry.add(content("stuck"))
    registry.hold(stuck)
    async with painting(tmp_path, registry, engine) as painter, painter.painting(engine_job("runs")) as runs:
        await steps(runs, 1)
        jobs = [engine_job("staged"), engine_job("queued"), engine_job("coming", stuck)]
        async with AsyncExitStack() as stack:
            waiting = [await stack.enter_async_context(painter.painting(job)) for job in jobs]
            await eventually(lambda: painter._staged)
            for each in waiting:
                await each.curtail(Superseded("r1"))
                assert await left(each) == []
            assert painter.queued_jobs == 0
        engine.gate.release(100)
        assert isinstance([event async for event in runs.events][-1], JobDone)
    assert engine.started == ["runs"]


async def test_a_job_whose_last_picture_has_begun_ends_as_if_it_were_not_curtailed(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = SteppedEngine(allowed=5)
    async with (
        painting(tmp_path, registry, engine) as painter,
        painter.painting(engine_job(images=SIXTEEN[:2])) as mine,
    ):
        await steps(mine, 5)
        curtailing = asyncio.create_task(mine.curtail(Superseded("r1")))
        await eventually(lambda: not painter._thread._commands.empty())
        engine.gate.release(100)
        assert isinstance([event async for event in mine.events][-1], JobDone)
        await curtailing


async def test_books_the_work_of_each_router_from_measured_costs(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = SteppedEngine()
    async with painting(tmp_path, registry, engine) as painter:
        await events_of(painter, engine_job("j1"), router="r1")
        (booked,) = painter.booked()
        assert (booked.router, booked.gpu_seconds, booked.last_request_id) == ("r1", 0.0, "j1")
        engine.gate = threading.Semaphore(0)
        running = asyncio.create_task(events_of(painter, engine_job("j2"), router="r1"))
        await eventually(lambda: painter.running_jobs)
        (booked,) = painter.booked()
        assert booked.gpu_seconds > 0
        assert booked.last_request_id == "j2"
        engine.gate.release(100)
        await running


class HeldEngine(FakeEngine):
    """Runs two jobs at once, and never gets anywhere."""

    max_jobs = 2

    def __init__(self) -> None:
        super().__init__([facts()])
        self.started: list[str] = []

    def start(self, job: EngineJob) -> None:
        self.started.append(job.id)

    def tick(self) -> Sequence[Event]:
        return ()


async def test_adapters_of_as_many_jobs_as_run_at_once_are_placed_before_their_turn(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = HeldEngine()
    async with painting(tmp_path, registry, engine) as painter:
        asked = {}
        for name in "abcdef":
            digest = registry.add(content(name))
            asked[digest] = asyncio.create_task(events_of(painter, engine_job(digest, digest, brand=name)))
        await eventually(lambda: len(engine.placements) == 4)
        await asyncio.sleep(0.05)
        assert (len(engine.started), len(engine.placements), painter.queued_jobs) == (2, 4, 4)
        asked[engine.placements[-1]].cancel()  # another takes its place
        await eventually(lambda: len(engine.placements) == 5)
        for task in asked.values():
            task.cancel()
        await asyncio.wait(asked.values())
