"""What people ask a router to have done at its workers: warm an adapter, evict one, drain a worker, reset its engine.

Tells workers, and answers once their heartbeats say that it is so; how commands travel is the sessions' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from looksmith.nouns import AdapterRef, AdapterVersion, Tier
from services.router import consistent_hash
from services.router.errors import DrainNotConfirmed, NotWarmInTime, NoWorker, ResetNotConfirmed, WorkerNotFound
from services.router.fleet import Fleet, FleetSnapshot, WorkerView
from services.router.members import Drain, Evict, Prefetch, Reset, ResetPhase, WorkerReset, WorkerState
from services.router.ports import Registry

log = structlog.get_logger()

#: Workers that a brand's adapter is warmed on where nobody says how many: its home, and the next in line, which takes
#: over when that is lost or falls behind.
HOMES = 2
#: Seconds between looks at the fleet; a worker's heartbeat tells a change within 20 ms.
LOOK_EVERY_S = 0.05
#: A worker that still lacks an adapter so long after it was told is told again: it may have been busy with others, or
#: its session was another.
TELL_AGAIN_S = 5.0
#: Seconds that people are let wait who set no deadline.
PATIENCE_S = 60.0
#: A worker that is away for longer is gone: one whose recipe has changed, or whose connection broke, joins anew sooner.
GONE_S = 5.0
#: An answer that names who is late leaves so long before its caller gives up; and as much of the deadline earlier as
#: grpc may round it up by on its way (1 %, with grpcio 1.85).
ANSWER_S, ROUNDED_UP = 0.3, 0.01


class Upkeep:
    """``clock`` is monotonic seconds. A ``timeout_s`` of None is PATIENCE_S."""

    def __init__(
        self,
        *,
        registry: Registry,
        fleet: Fleet,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry, self._fleet = registry, fleet
        self._clock, self._sleep = clock, sleep

    async def warm(self, ref: AdapterRef, *, homes: int, timeout_s: float | None) -> tuple[str, ...]:
        """Has an adapter brought to the memory of its brand's first ``homes`` workers; 0: HOMES, or all there are.

        Returns every worker that holds it in memory or on the device then, by name.

        Raises:
            NotFound: brand, adapter or version.
            FailedPrecondition: the version was yanked.
            NoWorker: none serves the adapter's family.
            NotWarmInTime: not all of the homes have it yet.
        """
        deadline = self._deadline(timeout_s)
        version = (await self._registry.resolve(ref)).version
        told: dict[str, float] = {}  # worker -> when
        while True:
            fleet = self._fleet.snapshot()
            now = self._clock()
            lacking = [view.name for view in homes_of(version, fleet, homes or HOMES) if not _is_warm(view, version)]
            if not lacking:
                log.info("adapter.warmed", brand=version.brand, digest=version.digest, told=sorted(told))
                return tuple(view.name for view in fleet.workers if _is_warm(view, version))
            if now >= deadline:
                raise NotWarmInTime(str(ref), lacking)
            for name in lacking:
                if now - told.get(name, float("-inf")) >= TELL_AGAIN_S:
                    self._fleet.tell(name, Prefetch(version.brand, version.digest))
                    told[name] = now
            await self._sleep(LOOK_EVERY_S)

    async def drain(self, name: str, reason: str, *, timeout_s: float | None) -> int:
        """Has a worker take no more jobs; returns how many it has left once it says that it drains.

        Raises:
            WorkerNotFound: it has not joined, or left before it said so.
            DrainNotConfirmed: it has not said so in time.
        """
        deadline = self._deadline(timeout_s)
        if not self._fleet.tell(name, Drain(reason)):
            raise WorkerNotFound(name)
        log.info("worker.drain_asked", worker=name, reason=reason)
        while not (heartbeat := self._fleet.view(name).heartbeat).draining:
            if self._clock() >= deadline:
                raise DrainNotConfirmed(name)
            await self._sleep(LOOK_EVERY_S)
        return heartbeat.queued_jobs + heartbeat.running_jobs

    async def reset(self, name: str, reason: str, *, timeout_s: float | None) -> WorkerReset:
        """Has a worker build its engine anew; returns how that ended, or how far it is when the time is up.

        Raises:
            WorkerNotFound: it has not joined, or left before it said that it began.
            ResetNotConfirmed: it has not said so in time.
        """
        deadline = self._deadline(timeout_s)
        known = self._fleet.view(name)
        # One that is being reset is not told again: the answer is about the reset under way.
        before = _resets(known) - known.heartbeat.resetting
        if not known.heartbeat.resetting:
            self._fleet.tell(name, Reset(reason))
        log.info("worker.reset_asked", worker=name, reason=reason)
        seen: WorkerReset | None = None
        here_at = self._clock()
        while seen is None or not seen.phase.over:
            view, now = self._fleet.find(name), self._clock()
            another = view is not None and view.registration.incarnation != known.registration.incarnation
            if view and not another:
                here_at = now
                if _resets(view) > before:
                    seen = view.heartbeat.reset
            elif another or now - here_at > GONE_S:
                if seen is None:
                    raise WorkerNotFound(name)
                return replace(seen, phase=ResetPhase.PROCESS_ENDS, problem=seen.problem or "its process ended")
            if now >= deadline:
                if seen is None:
                    raise ResetNotConfirmed(name)
                return seen
            await self._sleep(LOOK_EVERY_S)
        return seen

    def evict(self, digest: str, *, worker: str) -> tuple[str, ...]:
        """Tells a worker to forget an adapter on device and in memory, or every worker where the name is empty.

        Returns those that were told, by name. One that has a job with the adapter keeps it.

        Raises:
            WorkerNotFound: there is none of that name.
        """
        names = [worker] if worker else [view.name for view in self._fleet.snapshot().workers]
        told = tuple(name for name in names if self._fleet.tell(name, Evict(digest)))
        if worker and not told:
            raise WorkerNotFound(worker)
        log.info("adapter.evict_asked", digest=digest, workers=told)
        return told

    def _deadline(self, timeout_s: float | None) -> float:
        """When an answer has to leave, on the clock."""
        patience = PATIENCE_S if timeout_s is None else timeout_s
        return self._clock() + patience - ANSWER_S - ROUNDED_UP * patience


def homes_of(version: AdapterVersion, fleet: FleetSnapshot, count: int) -> tuple[WorkerView, ...]:
    """The first ``count`` workers in the brand's hash order that would be given its jobs, or as many as there are.

    Raises:
        NoWorker: none serves the adapter's family.
    """
    views = {view.name: view for view in fleet.workers}
    order = consistent_hash.rank(version.brand, {name: view.registration.speed for name, view in views.items()})
    able = [views[name] for name in order if _would_paint(views[name], version.manifest.family)]
    if not able:
        raise NoWorker(f"no worker that takes jobs serves family {version.manifest.family!r}")
    return tuple(able[:count])


def _would_paint(view: WorkerView, family: str) -> bool:
    """One that is ejected will be given jobs again within seconds; one that drains or is stuck won't."""
    takes_jobs = view.state in {WorkerState.READY, WorkerState.EJECTED}
    return takes_jobs and any(recipe.family == family for recipe in view.registration.recipes)


def _resets(view: WorkerView) -> int:
    return view.heartbeat.reset.number if view.heartbeat.reset else 0


def _is_warm(view: WorkerView, version: AdapterVersion) -> bool:
    return view.tier(version.digest) <= Tier.HOST
