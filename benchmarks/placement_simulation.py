"""A router and its workers in virtual time: the real fleet, bookings and placement, driven by a demand.

The router has no queue of its own yet: a job is bound as it arrives and waits at its worker. A fair queue, and
placement as workers come free, will stand in ``_arrive`` and ``_done``; policies and workers know nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import numpy as np

from benchmarks.placement_demand import PATTERNS, Demand, Mean
from benchmarks.placement_policies import POLICIES, Policy
from benchmarks.simulated_workers import (
    ADAPTER_BYTES,
    DEVICE_SLOTS,
    Journey,
    LruTiers,
    OverlappedWorker,
    SerialWorker,
    SimulatedWorker,
    Timeline,
)
from looksmith.nouns import Tier
from services.chassis.painting import Pinned, RecipeFacts, Settled
from services.router.fleet import Booking, Fleet, Member
from services.router.members import BookedWork, Heartbeat, MeasuredCost, Registration
from services.router.placement import Job, SwapCosts
from services.router.ports import WorkerCall

ROUTER, LEASE_S, HEARTBEAT_S = "simulated", 3.0, 1.0
SERVICE_S, STEPS, SIZE = 1.0, 4, (1024, 1024)
RECIPE = RecipeFacts("simulated", "r" * 64, "sdxl", "b" * 64, sizes=(SIZE,), steps=(STEPS,), default_steps=STEPS)
#: What a worker reports: an image that is painted alone takes SERVICE_S.
COSTS = (MeasuredCost(RECIPE.name, SIZE, rows=1, step_seconds=SERVICE_S / STEPS, fixed_seconds=0.0),)
#: Nothing here is dated by the wall clock, but a fleet asks for it.
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class World(Protocol):
    """How workers work, and what placement is told that swaps cost; ``jobs_per_s`` is the most a worker can do."""

    @property
    def jobs_per_s(self) -> float: ...

    @property
    def swap_costs(self) -> SwapCosts: ...

    def worker(self, timeline: Timeline, done: Callable[[Journey], None]) -> SimulatedWorker: ...


@dataclass(frozen=True)
class Serial:
    """World A: one job at a time; a swap takes the device's time."""

    swap_seconds: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.DEVICE: 0.0, Tier.HOST: 0.1, Tier.STORE: 1.0}
    )
    jobs_per_s: float = 1 / SERVICE_S

    @property
    def swap_costs(self) -> SwapCosts:
        return SwapCosts(self.swap_seconds)

    def worker(self, timeline: Timeline, done: Callable[[Journey], None]) -> SimulatedWorker:
        return SerialWorker(timeline=timeline, done=done, service_s=SERVICE_S, swap_seconds=self.swap_seconds)


@dataclass(frozen=True)
class Overlapped:
    """World B: Looksmith's worker. Swaps as on the CPU in docs/figures/engine-cpu.json, for want of a GPU's.

    Four pictures in one batch take 206 ms there, and a call for one 134 ms; between the two we take a line. Of a cold
    file 90 ms are not the network, 8.7 of them the copy into a slot (cold_file_ms, swap_ms).
    """

    batch_seconds: tuple[float, ...] = tuple(SERVICE_S * (1 + (206 / 134 - 1) * n / 3) for n in range(4))
    bytes_per_s: float = 1e9 / 8
    copy_s: float = 0.0087
    prepare_s: float = 0.0813

    @property
    def jobs_per_s(self) -> float:
        return len(self.batch_seconds) / self.batch_seconds[-1]

    @property
    def swap_costs(self) -> SwapCosts:
        fetch_s = ADAPTER_BYTES / self.bytes_per_s
        return SwapCosts({Tier.DEVICE: 0.0, Tier.HOST: self.copy_s, Tier.STORE: fetch_s + self.prepare_s + self.copy_s})

    def worker(self, timeline: Timeline, done: Callable[[Journey], None]) -> SimulatedWorker:
        return OverlappedWorker(
            timeline=timeline,
            done=done,
            batch_seconds=self.batch_seconds,
            bytes_per_s=self.bytes_per_s,
            prepare_s=self.prepare_s,
            copy_s=self.copy_s,
        )


@dataclass(frozen=True)
class Churn:
    """Every ``every_s`` the next worker in turn goes, loses what it holds, and is back, empty, ``away_s`` later."""

    every_s: float = 60.0
    away_s: float = 20.0


@dataclass(frozen=True)
class Case:
    """``load`` is the share of all that the workers can do if no swap ever costs them anything."""

    world: World
    pattern: str
    workers: int
    load: float
    churn: Churn | None = None
    brands: int = 300

    def demand(self, *, jobs: int, seed: int) -> Demand:
        rate = self.load * self.workers * self.world.jobs_per_s
        return PATTERNS[self.pattern](Mean(jobs, rate, self.brands), np.random.default_rng(seed))

    def run(self, policy: str, *, jobs: int, seed: int) -> list[Journey]:
        """Every job of one run, in order of arrival. The same arguments give the same jobs and times."""
        made = POLICIES[policy](self.world.swap_costs, random.Random(seed))
        demand = self.demand(jobs=jobs, seed=seed)
        return Simulation(self.world, made, demand, workers=self.workers, churn=self.churn).run()


@dataclass(eq=False)
class Present:
    """A worker while it is there, with its session and the bookings of its jobs."""

    member: Member
    worker: SimulatedWorker
    bookings: dict[Journey, Booking] = field(default_factory=dict)
    heartbeats: int = 0


class Simulation:
    """One run; made anew for each."""

    def __init__(
        self, world: World, policy: Policy, demand: Demand, *, workers: int, churn: Churn | None = None
    ) -> None:
        self._world, self._policy, self._churn = world, policy, churn
        self._timeline = Timeline()
        self._fleet = Fleet(router=ROUTER, lease_s=LEASE_S, clock=lambda: self._timeline.now, now=lambda: NOON)
        self._names = tuple(f"worker-{number}" for number in range(workers))
        self._present: dict[str, Present] = {}
        self._in_flight: dict[str, int] = {}
        self._incarnations = 0
        self._jobs = [_job(brand) for brand in range(max(demand.brands) + 1)]
        self._journeys = [
            Journey(brand, self._jobs[brand].digests[0], time)
            for time, brand in zip(demand.times, demand.brands, strict=True)
        ]
        self._to_come: Iterator[Journey] = iter(self._journeys)
        self._unfinished = len(self._journeys)

    def run(self) -> list[Journey]:
        for number, name in enumerate(self._names):  # their heartbeats shall not all come at once
            self._timeline.after(number / len(self._names), partial(self._join, name))
        if self._churn:
            self._timeline.after(self._churn.every_s, partial(self._leave, 0))
        self._timeline.after(HEARTBEAT_S, self._await_next)
        self._timeline.run()
        return self._journeys

    # Jobs

    def _await_next(self) -> None:
        journey = next(self._to_come, None)
        if journey:
            self._timeline.after(max(0.0, journey.arrived - self._timeline.now), partial(self._arrive, journey))

    def _arrive(self, journey: Journey) -> None:
        journey.arrived = self._timeline.now
        self._bind(journey)
        self._await_next()

    def _bind(self, journey: Journey) -> None:
        job = self._jobs[journey.brand]
        name, gpu_seconds = self._policy(job, self._fleet.snapshot(), self._in_flight)
        present = self._present[name]
        journey.worker, journey.bound, journey.found = name, self._timeline.now, None
        journey.held = present.worker.tiers.tier(journey.digest) is not Tier.STORE
        journey.bindings += 1
        present.bookings[journey] = self._fleet.book(name, gpu_seconds, job.digests)
        self._in_flight[name] += 1
        present.worker.give(journey)

    def _done(self, journey: Journey) -> None:
        journey.finished = self._timeline.now
        self._present[journey.worker].bookings.pop(journey).release()
        self._in_flight[journey.worker] -= 1
        self._unfinished -= 1

    # Workers

    def _join(self, name: str) -> None:
        self._incarnations += 1
        registration = Registration(name, str(self._incarnations), "simulated:1", (RECIPE,))
        member = self._fleet.join(registration, _NoConnection())
        present = self._present[name] = Present(member, self._world.worker(self._timeline, self._done))
        self._in_flight[name] = 0
        self._beat(name, present)

    def _beat(self, name: str, present: Present) -> None:
        """Once a second, and so late: what a snapshot knows of tiers is a second old at worst."""
        if not self._unfinished or self._present.get(name) is not present:
            return
        present.heartbeats += 1
        tiers: LruTiers = present.worker.tiers
        booked = sum(booking.gpu_seconds for booking in present.bookings.values())
        heartbeat = Heartbeat(
            present.heartbeats,
            full=True,
            residency=tiers.residency(),
            booked=(BookedWork(ROUTER, booked),),
            slots=DEVICE_SLOTS,
            costs=COSTS,
        )
        self._fleet.heard(present.member, heartbeat)
        self._timeline.after(HEARTBEAT_S, partial(self._beat, name, present))

    def _leave(self, turn: int) -> None:
        if not (self._unfinished and self._churn):
            return
        name = self._names[turn % len(self._names)]
        present = self._present.pop(name)
        del self._in_flight[name]
        self._fleet.leave(present.member, "churn")
        for booking in present.bookings.values():
            booking.release()
        for journey in present.worker.stop():
            self._bind(journey)
        self._timeline.after(self._churn.away_s, partial(self._join, name))
        self._timeline.after(self._churn.every_s, partial(self._leave, turn + 1))


def _job(brand: int) -> Job:
    return Job(f"brand-{brand}", RECIPE, SIZE, STEPS, images=1, digests=(f"{brand:064x}",))


class _NoConnection:
    """Simulated workers are given their jobs by hand."""

    def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[WorkerCall]:
        raise NotImplementedError

    async def retire(self) -> None:
        pass
