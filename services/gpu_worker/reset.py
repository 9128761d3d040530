"""Builds a worker's engine anew while its process goes on: finishes what has begun, throws all away, loads afresh.

Owns the order of things and tells how far they are. What a part has to do for it is the part's own business; that
routers paint elsewhere meanwhile is theirs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse as Health
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.engine.protocol import Engine
from services.gpu_worker.engine_thread import EngineHangs, EngineThread
from services.gpu_worker.errors import WorkerResetting
from services.gpu_worker.painter import Painter
from services.gpu_worker.tiers import AdapterTiers
from services.router.client import ResetPhase, WorkerReset

log = structlog.get_logger()

#: Exit code of a worker whose engine is lost: it hangs, or there is no building it anew. Its supervisor starts another
#: process. 2 is that of one that could not start.
ENGINE_LOST = 3
#: Seconds for a router to hear of it; one that is out of reach gives no jobs either.
HEARD_S = 1.0
#: Seconds in which jobs may still come that a router sent before it heard.
ON_THE_WAY_S = 0.1
#: Seconds between looks at whether jobs are done.
LOOK_EVERY_S = 0.05


def end_process(code: int) -> None:
    """Ends the process at once, once its spans are out: a thread that does not come back keeps it from ending well."""
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        provider.force_flush(1000)
    sys.stderr.flush()
    os._exit(code)


class EngineReset:
    """``check`` raises what keeps the recipes from being read, before anything is given up; ``make`` gives an engine.

    ``tell_health`` hears whether the worker is ready, ``rebuilt`` what the new engine serves. ``end_process`` is called
    with ENGINE_LOST where nothing else is left. ``finish_s``: seconds that jobs may take to end.
    """

    def __init__(
        self,
        *,
        engine_thread: EngineThread,
        painter: Painter,
        tiers: AdapterTiers,
        check: Callable[[], object],
        make: Callable[[], Engine],
        rebuilt: Callable[[Sequence[RecipeFacts]], None],
        tell_health: Callable[[int], Awaitable[None]],
        end_process: Callable[[int], object],
        finish_s: float,
        clock: Clock,
    ) -> None:
        self._thread, self._painter, self._tiers = engine_thread, painter, tiers
        self._check, self._make, self._rebuilt = check, make, rebuilt
        self._tell_health, self._end_process = tell_health, end_process
        self._finish_s, self._clock = finish_s, clock
        self._reports: Sequence[Callable[[], Awaitable[None]]] = ()
        self._number = 0
        self._phase: ResetPhase | None = None
        self._began_ns = self._ended_ns = 0
        self._dropped = 0
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def report_by(self, reports: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Each tells a router how the worker is, and returns when that has heard it."""
        self._reports = reports

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EngineReset]:
        """On exit, breaks off what is under way."""
        try:
            yield self
        finally:
            if self._task:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    @property
    def newest(self) -> WorkerReset | None:
        """The reset under way, or the last one; None: there was none."""
        if self._phase is None:
            return None
        took = seconds(self._began_ns, self._ended_ns if self._phase.over else self._clock())
        return WorkerReset(self._number, self._phase, took, self._dropped, self._problem)

    def begin(self, reason: str) -> None:
        """Begins a reset, unless one is under way."""
        if self._task and not self._task.done():
            return
        self._number += 1
        self._phase, self._dropped, self._problem = ResetPhase.FINISHING, 0, ""
        self._began_ns = self._clock()
        log.info("worker.reset_began", number=self._number, reason=reason)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # 1. Refuse where it could not end well
        if self._painter.draining:
            await self._end(ResetPhase.REFUSED, "it drains, and its process will end")
            return
        try:
            await asyncio.to_thread(self._check)
        except Exception as error:  # noqa: BLE001  # whatever it is, the engine that there is goes on
            await self._end(ResetPhase.REFUSED, str(error))
            return
        # 2. Have routers place elsewhere, and only then refuse jobs: none is turned away
        await self._tell_health(Health.NOT_SERVING)
        await self._report()
        await asyncio.sleep(ON_THE_WAY_S)
        self._painter.pause()
        # 3. Finish what has begun: to paint it anew elsewhere would cost more, and elsewhere there may be nobody
        await self._finish()
        self._dropped = self._painter.give_up_all(WorkerResetting)
        # 4. Throw all away, and load afresh
        self._phase = ResetPhase.REBUILDING
        log.info("worker.rebuilding", jobs_dropped=self._dropped)
        await self._report()
        await self._tiers.emptied()
        try:
            await self._thread.rebuild(self._make)
        except EngineHangs:
            await self._give_up("its engine's thread does not come back, and can't be ended in this process")
            return
        except Exception as error:  # the old engine is gone: only another process can help
            log.exception("engine.not_rebuilt")
            await self._give_up(str(error) or type(error).__name__)
            return
        # 5. Take jobs again
        self._rebuilt(self._thread.engine.recipes)
        self._tiers.reopen()
        self._painter.resume()
        await self._tell_health(Health.SERVING)
        await self._end(ResetPhase.DONE)

    async def _finish(self) -> None:
        """Until no job is left, the engine is stuck, or the time is up."""
        while self._painter.jobs and not self._painter.stalled_s():
            if seconds(self._began_ns, self._clock()) > self._finish_s:
                log.warning("worker.reset_left_jobs", jobs=self._painter.jobs, finish_s=self._finish_s)
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _give_up(self, problem: str) -> None:
        log.error("engine.lost", problem=problem, exit_code=ENGINE_LOST)
        await self._end(ResetPhase.PROCESS_ENDS, problem)
        self._end_process(ENGINE_LOST)

    async def _end(self, phase: ResetPhase, problem: str = "") -> None:
        self._phase, self._problem, self._ended_ns = phase, problem, self._clock()
        log.info(
            "worker.reset_ended",
            number=self._number,
            outcome=str(phase),
            seconds=round(seconds(self._began_ns, self._ended_ns), 3),
            jobs_dropped=self._dropped,
            problem=problem,
        )
        await self._report()

    async def _report(self) -> None:
        """Tells all routers how far it is; returns when they have heard, or had their time."""
        if telling := [asyncio.ensure_future(report()) for report in self._reports]:
            _, unheard = await asyncio.wait(telling, timeout=HEARD_S)
            for report in unheard:
                report.cancel()
