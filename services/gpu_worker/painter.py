"""Runs jobs: keeps them in their queue while their adapters come, starts them in turn, hands out what the engine says.

Decides nothing about requests and sends nothing; who asked, and in what form the answer goes out, is not known here.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from looksmith.errors import Internal, LooksmithError
from services.gpu_worker.clock import Clock
from services.gpu_worker.costs import MeasuredCosts, StepTimes, Work
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    JobDone,
    JobFailed,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)
from services.gpu_worker.engine.turns import rows_of
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.errors import WorkerDraining, WorkerResetting
from services.gpu_worker.lease import Lease
from services.gpu_worker.queue import FairQueue
from services.gpu_worker.router_books import Booked, RouterBooks
from services.gpu_worker.swap import StageTime, SwapReport
from services.gpu_worker.tiers import AdapterTiers

log = structlog.get_logger()

_LEAST_RETRY_S = 0.1
_ERRORS_KEPT = 10


@dataclass(frozen=True)
class Bound:
    """The job's adapters act: its swap is over."""

    swap: SwapReport
    wait_start_ns: int
    wait_end_ns: int


#: What a job tells, in this order: Bound, then per image stages, steps, previews and how it ended, then JobDone.
JobEvent = Bound | StageDone | StepDone | PreviewReady | ImageReady | ImageBlocked | JobDone


@dataclass(frozen=True)
class Painting:
    """A job's events, and two ways to end it early with an error, which its reader gets.

    ``give_up`` ends it at once; ``curtail`` once the pictures that have begun are painted, unless those are all.
    """

    events: AsyncIterator[JobEvent]
    give_up: Callable[[LooksmithError], None]
    curtail: Callable[[LooksmithError], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Mishap:
    time: datetime
    reason: str
    message: str


@dataclass(eq=False)
class _Job:
    engine_job: EngineJob
    router: str
    lease: Lease
    arrived_ns: int
    # Unbounded, and yet bounded: a job has a fixed number of events, and the engine must not wait for a slow reader.
    events: asyncio.Queue[Event | Bound] = field(default_factory=asyncio.Queue)
    bringing: asyncio.Task[None] | None = None
    ready: bool = False
    over: bool = False
    turn_ns: int = 0
    steps: StepTimes = field(default_factory=StepTimes)
    painted: int = 0
    curtailed: LooksmithError | None = None

    @property
    def complete(self) -> bool:
        return self.painted == len(self.engine_job.images)

    @property
    def work(self) -> Work:
        job = self.engine_job
        return Work(job.recipe, job.width, job.height, job.steps, len(job.images), rows_of(job))


class Painter:
    """Jobs of one engine. As many as it runs at once are staged: their adapters are on the device before their turn."""

    def __init__(
        self, *, name: str, engine_thread: EngineThread, tiers: AdapterTiers, max_queued: int, clock: Clock
    ) -> None:
        self.costs = MeasuredCosts()
        self.mishaps: deque[Mishap] = deque(maxlen=_ERRORS_KEPT)  # newest first
        self._name, self._thread, self._tiers, self._clock = name, engine_thread, tiers, clock
        self._queue: FairQueue[_Job] = FairQueue(limit=max_queued)
        self._jobs: dict[str, _Job] = {}  # all that have not ended
        self._staged: deque[_Job] = deque()
        self._running: set[str] = set()
        self._books = RouterBooks()
        self._room_since_ns = clock()
        self._changed = asyncio.Event()  # a job became ready or is staged, or there is room
        self._draining = self._paused = self._said_stalled = False
        engine_thread.listen(self._on_events, self._on_failure)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Painter]:
        tasks = [asyncio.create_task(self._stage_jobs()), asyncio.create_task(self._start_jobs())]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # How it is

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def running_jobs(self) -> int:
        return len(self._running)

    @property
    def queued_jobs(self) -> int:
        return len(self._jobs) - len(self._running)

    def stalled_s(self) -> float:
        """Seconds that the engine has been at one unit of work which should have ended long ago; 0: it gets on."""
        stalled_s = 0.0 if self._thread.rebuilding else self._thread.progress.stalled_s()
        if stalled_s and not self._said_stalled:
            log.error("engine.stalled", seconds=round(stalled_s, 1), jobs=len(self._jobs))
        self._said_stalled = stalled_s > 0
        return stalled_s

    def booked(self) -> tuple[Booked, ...]:
        seconds_of: defaultdict[str, float] = defaultdict(float)
        for job in self._jobs.values():
            seconds_of[job.router] += self.costs.estimate_s(job.work)
        return self._books.booked(seconds_of)

    def drain(self) -> None:
        """Takes no more jobs; those that are here are finished."""
        self._draining = True

    # While its engine is rebuilt

    @property
    def jobs(self) -> int:
        """That have not ended."""
        return len(self._jobs)

    def pause(self) -> None:
        """Takes no jobs until ``resume``; those that are here are finished."""
        self._paused = True

    def give_up_all(self, error: Callable[[], LooksmithError]) -> int:
        """Ends the jobs that are here; how many those were."""
        left = list(self._jobs.values())
        for job in left:
            self._give_up(job, error())
        return len(left)

    def resume(self) -> None:
        self._paused = False
        self._changed.set()

    # A job's life

    @asynccontextmanager
    async def painting(
        self, engine_job: EngineJob, *, router: str = "", request_id: str = "", left_s: float | None = None
    ) -> AsyncIterator[Painting]:
        """Queues a job; leaving drops what is not painted yet, within one step.

        Args:
            engine_job: what to paint.
            router: who sent it; empty if it came directly.
            request_id: of the request it is for.
            left_s: seconds until nobody waits for it any more.

        Raises:
            WorkerDraining: no more jobs are taken.
            WorkerResetting: none are for the moment.
            WorkerFull: too many wait already.
            LooksmithError: while iterating: its adapters can't be had, or the engine failed.
        """
        if self._draining:
            raise WorkerDraining(self._name)
        if self._paused:
            raise WorkerResetting
        arrived = self._clock()
        lease = self._tiers.lease(engine_job.brand, [adapter.digest for adapter in engine_job.adapters])
        job = _Job(engine_job, router, lease, arrived)
        self._queue.push(
            job,
            brand=engine_job.brand,
            deadline=arrived / 1e9 + (math.inf if left_s is None else left_s),
            retry_after_s=max(_LEAST_RETRY_S, sum(self.costs.estimate_s(j.work) for j in self._jobs.values())),
        )
        self._jobs[engine_job.id] = job
        if router:
            self._books.sent(router, request_id, at_work={job.router for job in self._jobs.values()})
        job.bringing = asyncio.create_task(self._bring(job))
        try:
            yield Painting(
                self._events_of(job),
                give_up=lambda error: self._give_up(job, error),
                curtail=lambda error: self._curtail(job, error),
            )
        finally:
            self._end(job)
            if not job.bringing.done():
                job.bringing.cancel()
            with suppress(asyncio.CancelledError):
                await job.bringing
            self._tiers.release(job.lease)
            job.lease.close("UNFINISHED")

    async def _events_of(self, job: _Job) -> AsyncIterator[JobEvent]:
        while True:
            match await job.events.get():
                case JobFailed(error=LooksmithError() as error):
                    raise error
                case JobFailed(error=error):
                    raise Internal("the engine failed; the worker's log tells more") from error
                case JobDone() as done:
                    yield done
                    return
                case event:
                    yield event

    async def _bring(self, job: _Job) -> None:
        try:
            await self._tiers.bring(job.lease)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this job's failure
            self._fail(job, error)
        else:
            job.ready = True
            self._changed.set()

    async def _stage_jobs(self) -> None:
        """Takes jobs in turn, and places their adapters while others are painted."""
        while True:
            while (job := self._next()) is None:
                await self._news()
            try:
                await self._tiers.place(job.lease)
            except Exception as error:  # noqa: BLE001  # the next job must still be taken
                self._fail(job, error)
            if job.over:
                self._tiers.release(job.lease)
            else:
                self._staged.append(job)
                self._changed.set()

    def _next(self) -> _Job | None:
        """The job to stage now; None if none is ready, or enough are staged."""
        if not len(self._queue):  # there may be no engine to ask either
            return None
        enough = len(self._staged) >= self._thread.engine.max_jobs
        return None if enough else self._queue.take(lambda job: job.ready)

    async def _start_jobs(self) -> None:
        """Starts what is staged, in its order, as there is room."""
        while True:
            while not self._staged or len(self._running) >= self._thread.engine.max_jobs:
                await self._news()
            job = self._staged.popleft()
            self._changed.set()
            try:
                if not job.over:
                    await self._start(job)
            except Exception as error:  # noqa: BLE001  # the next job must still be started
                self._fail(job, error)

    async def _news(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _start(self, job: _Job) -> None:
        job.turn_ns = max(job.arrived_ns, self._room_since_ns)
        self._running.add(job.engine_job.id)
        await self._thread.call(lambda: self._thread.engine.start(job.engine_job))

    def _end(self, job: _Job) -> None:
        """Forgets a job, wherever it stands. One that has ended changes nothing."""
        if job.over:
            return
        job.over = True
        identity = job.engine_job.id
        del self._jobs[identity]
        self._queue.remove(job)
        with suppress(ValueError):
            self._staged.remove(job)
        if identity in self._running:
            self._running.remove(identity)
            self._thread.post(lambda: self._thread.engine.stop(identity))
            self._room_since_ns = self._clock()
        self._tiers.release(job.lease)
        self._changed.set()

    def _fail(self, job: _Job, error: Exception) -> None:
        reason = error.reason if isinstance(error, LooksmithError) else Internal.reason
        self.mishaps.appendleft(Mishap(datetime.fromtimestamp(self._clock() / 1e9, UTC), reason, str(error)[:500]))
        if not isinstance(error, LooksmithError):
            log.error("job.failed", job=job.engine_job.id, brand=job.engine_job.brand, exc_info=error)
        self._give_up(job, error)

    def _give_up(self, job: _Job, error: Exception) -> None:
        self._end(job)
        job.events.put_nowait(JobFailed(job.engine_job.id, error))

    async def _curtail(self, job: _Job, error: LooksmithError) -> None:
        """Returns once no further picture of it begins."""
        identity = job.engine_job.id
        if job.over or job.curtailed:
            return
        job.curtailed = error
        under_way = False
        if identity in self._running:
            try:
                under_way = await self._thread.call(lambda: self._thread.engine.curtail(identity))
            except Exception as broken:  # noqa: BLE001  # the next job must still be curtailed
                self._fail(job, broken)
        if not (under_way or job.over or job.complete):
            self._give_up(job, error)

    # What the engine says

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            job = self._jobs.get(event.job)
            if job is None:  # it has left meanwhile
                continue
            match event:
                case JobFailed(error=error):
                    self._fail(job, error)
                    continue
                case JobDone() if job.curtailed and not job.complete:
                    self._give_up(job, job.curtailed)
                    continue
                case ImageReady() | ImageBlocked():
                    job.painted += 1
                case JobDone(gpu_seconds=spent):
                    if not job.engine_job.reproducible:  # its batches are padded beyond what they are called
                        self.costs.observe(job.work, job.steps, total_s=spent)
                    self._end(job)
                case StageDone(stage=Stage.BIND):
                    job.events.put_nowait(self._bound(job, event))
                    continue
                case StepDone(batch_rows=rows, seconds=took):
                    job.steps.add(took, batch_rows=rows, own_rows=job.work.rows)
            job.events.put_nowait(event)

    def _bound(self, job: _Job, bind: StageDone) -> Bound:
        if job.lease.digests:
            job.lease.record(StageTime(Stage.BIND, bind.start_ns, bind.end_ns))
        swap = job.lease.bound(turn_ns=job.turn_ns, bound_ns=bind.end_ns)
        # An engine that has room may still lack a free row: a job whose adapters are there waits for that too.
        waited_until = job.turn_ns if swap.visible_s else max(job.turn_ns, bind.start_ns)
        return Bound(swap, job.arrived_ns, waited_until)

    def _on_failure(self, error: Exception) -> None:
        """The engine raised where it must not: what ran is lost, what waits may still be painted."""
        for identity in list(self._running):
            self._fail(self._jobs[identity], error)
