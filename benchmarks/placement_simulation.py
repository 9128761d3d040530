"""A router and its workers in virtual time: the real fleet, bookings, fair queue and placement, driven by a demand.

Stands where dispatch does: enters jobs into the scheduler, gives them to simulated workers and takes them out again.
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

from benchmarks.placement_demand import PATTERNS, Arrivals, Mean
from benchmarks.placement_policies import POLICIES, NoDemand, SeenFleet, Way
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
from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.chassis.painting import Pinned, RecipeFacts, Settled
from services.router.demand import Demand
from services.router.fleet import Member
from services.router.members import BookedWork, Command, Heartbeat, MeasuredCost, Prefetch, Registration
from services.router.placement import Job, SwapCosts
from services.router.ports import WorkerCall
from services.router.scheduler import Scheduler, Ticket
from services.router.warmth import Warmth

ROUTER, LEASE_S, HEARTBEAT_S = "simulated", 3.0, 1.0
#: What a job may take; one that is refused or expires counts as having taken it.
DEADLINE_S = 180.0
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
    def max_rows(self) -> int: ...

    @property
    def costs(self) -> tuple[MeasuredCost, ...]:
        """What its workers report of themselves."""

    @property
    def swap_costs(self) -> SwapCosts: ...

    def worker(self, timeline: Timeline, done: Callable[[Journey], None], fetches: list[float]) -> SimulatedWorker: ...


@dataclass(frozen=True)
class Serial:
    """World A: one job at a time; a swap takes the device's time."""

    swap_seconds: Mapping[Tier, float] = field(
        default_factory=lambda: {Tier.DEVICE: 0.0, Tier.HOST: 0.1, Tier.STORE: 1.0}
    )
    jobs_per_s: float = 1 / SERVICE_S
    max_rows: int = 1
    costs: tuple[MeasuredCost, ...] = COSTS

    @property
    def swap_costs(self) -> SwapCosts:
        return SwapCosts(self.swap_seconds)

    def worker(self, timeline: Timeline, done: Callable[[Journey], None], fetches: list[float]) -> SimulatedWorker:
        return SerialWorker(
            timeline=timeline, done=done, fetches=fetches, service_s=SERVICE_S, swap_seconds=self.swap_seconds
        )


@dataclass(frozen=True)
class Overlapped:
    """World B: Looksmith's worker. Swaps as on the CPU in docs/figures/engine-cpu.json, for want of a GPU's.

    Four pictures in one batch take 206 ms there, and a call for one 134 ms; between the two we take a line. Of a cold
    file 90 ms are not the network, 8.7 of them the copy into a slot (cold_file_ms, swap_ms); one on disk takes 11.6
    (from_disk_256_ms).
    """

    batch_seconds: tuple[float, ...] = tuple(SERVICE_S * (1 + (206 / 134 - 1) * n / 3) for n in range(4))
    bytes_per_s: float = 1e9 / 8
    copy_s: float = 0.0087
    prepare_s: float = 0.0813
    from_disk_s: float = 0.0116

    @property
    def jobs_per_s(self) -> float:
        return len(self.batch_seconds) / self.batch_seconds[-1]

    @property
    def max_rows(self) -> int:
        return len(self.batch_seconds)

    @property
    def costs(self) -> tuple[MeasuredCost, ...]:
        return tuple(
            MeasuredCost(RECIPE.name, SIZE, rows=rows, step_seconds=seconds / STEPS, fixed_seconds=0.0)
            for rows, seconds in enumerate(self.batch_seconds, start=1)
        )

    @property
    def swap_costs(self) -> SwapCosts:
        fetch_s = ADAPTER_BYTES / self.bytes_per_s
        seconds = {
            Tier.DEVICE: 0.0,
            Tier.HOST: self.copy_s,
            Tier.DISK: self.from_disk_s + self.copy_s,
            Tier.STORE: fetch_s + self.prepare_s + self.copy_s,
        }
        return SwapCosts(seconds)

    def worker(self, timeline: Timeline, done: Callable[[Journey], None], fetches: list[float]) -> SimulatedWorker:
        return OverlappedWorker(
            timeline=timeline,
            done=done,
            fetches=fetches,
            batch_seconds=self.batch_seconds,
            bytes_per_s=self.bytes_per_s,
            prepare_s=self.prepare_s,
            from_disk_s=self.from_disk_s,
            copy_s=self.copy_s,
        )


@dataclass(frozen=True)
class Churn:
    """Every ``every_s`` the next worker in turn goes, loses what it holds, and is back, empty, ``away_s`` later."""

    every_s: float = 60.0
    away_s: float = 20.0


@dataclass(frozen=True)
class Outcome:
    """Every job of a run, in order of arrival, and when each file was fetched from the store."""

    journeys: list[Journey]
    fetches: list[float]


@dataclass(frozen=True)
class Case:
    """``load`` is the share of all that the workers can do if no swap ever costs them anything."""

    world: World
    pattern: str
    workers: int
    load: float
    churn: Churn | None = None
    brands: int = 300

    def demand(self, *, jobs: int, seed: int) -> Arrivals:
        rate = self.load * self.workers * self.world.jobs_per_s
        return PATTERNS[self.pattern](Mean(jobs, rate, self.brands), np.random.default_rng(seed))

    def run(self, policy: str, *, jobs: int, seed: int) -> Outcome:
        """One run. The same arguments give the same jobs and times."""
        demand = self.demand(jobs=jobs, seed=seed)
        rng = random.Random(seed)
        return Simulation(self.world, POLICIES[policy], demand, workers=self.workers, churn=self.churn, rng=rng).run()


@dataclass(eq=False)
class Present:
    """A worker while it is there, with its session and the jobs that it has."""

    member: Member
    worker: SimulatedWorker
    jobs: dict[Journey, Ticket] = field(default_factory=dict)
    heartbeats: int = 0


class Simulation:
    """One run; made anew for each."""

    def __init__(
        self,
        world: World,
        way: Way,
        demand: Arrivals,
        *,
        workers: int,
        churn: Churn | None = None,
        rng: random.Random,
    ) -> None:
        self._world, self._churn = world, churn
        self._timeline = Timeline()
        self._fleet = SeenFleet(router=ROUTER, lease_s=LEASE_S, clock=lambda: self._timeline.now, now=lambda: NOON)
        self._fleet.look(way.sight, rng)
        self._scheduler = Scheduler(
            fleet=self._fleet,
            demand=Demand() if way.follows_demand else NoDemand(),
            warmth=Warmth(fleet=self._fleet, clock=lambda: self._timeline.now),
            clock=lambda: self._timeline.now,
            policy=way.policy(rng),
            costs=way.costs(world.swap_costs),
            takes_over=way.takes_over,
        )
        self._names = tuple(f"worker-{number}" for number in range(workers))
        self._present: dict[str, Present] = {}
        self._tickets: dict[Journey, Ticket] = {}
        self._incarnations = 0
        self._jobs = [_job(brand) for brand in range(max(demand.brands) + 1)]
        self._journeys = [
            Journey(brand, self._jobs[brand].digests[0], time)
            for time, brand in zip(demand.times, demand.brands, strict=True)
        ]
        self._to_come: Iterator[Journey] = iter(self._journeys)
        self._unfinished = len(self._journeys)
        self.fetches: list[float] = []

    def run(self) -> Outcome:
        for number, name in enumerate(self._names):  # their heartbeats shall not all come at once
            self._timeline.after(number / len(self._names), partial(self._join, name))
        if self._churn:
            self._timeline.after(self._churn.every_s, partial(self._leave, 0))
        self._timeline.after(HEARTBEAT_S, self._await_next)
        self._timeline.run()
        return Outcome(self._journeys, self.fetches)

    # Jobs

    def _await_next(self) -> None:
        journey = next(self._to_come, None)
        if journey:
            self._timeline.after(max(0.0, journey.arrived - self._timeline.now), partial(self._arrive, journey))

    def _arrive(self, journey: Journey) -> None:
        journey.arrived = self._timeline.now
        self._enter(journey)
        self._await_next()

    def _enter(self, journey: Journey, *, paid: bool = False) -> None:
        try:
            self._tickets[journey] = self._scheduler.enter(
                self._jobs[journey.brand],
                arrived=journey.arrived,
                deadline=journey.arrived + DEADLINE_S,
                settled=partial(self._settled, journey),
                paid=paid,
            )
        except LooksmithError:
            self._refuse(journey)

    def _settled(self, journey: Journey, error: LooksmithError | None) -> None:
        """Acts a moment later: the scheduler may be at this before it has handed out the ticket."""
        self._timeline.after(0.0, partial(self._refuse if error else self._give, journey))

    def _refuse(self, journey: Journey) -> None:
        journey.refused = True
        journey.finished = journey.arrived + DEADLINE_S
        self._unfinished -= 1

    def _give(self, journey: Journey) -> None:
        ticket = self._tickets[journey]
        present = self._present.get(ticket.worker)
        if present is None:  # it has left at this very moment
            self._scheduler.leave(ticket)
            self._enter(journey, paid=True)
            return
        journey.worker, journey.bound, journey.found = ticket.worker, self._timeline.now, None
        journey.held = present.worker.tiers.tier(journey.digest) is not Tier.STORE
        journey.bindings += 1
        present.jobs[journey] = ticket
        present.worker.give(journey)

    def _done(self, journey: Journey) -> None:
        journey.finished = self._timeline.now
        self._unfinished -= 1
        self._scheduler.leave(self._present[journey.worker].jobs.pop(journey))

    # Workers

    def _join(self, name: str) -> None:
        self._incarnations += 1
        registration = Registration(
            name, str(self._incarnations), "simulated:1", (RECIPE,), max_rows=self._world.max_rows
        )
        worker = self._world.worker(self._timeline, self._done, self.fetches)
        member = self._fleet.join(registration, NoConnection(), tell=partial(_tell, worker))
        present = self._present[name] = Present(member, worker)
        self._beat(name, present)

    def _beat(self, name: str, present: Present) -> None:
        """Once a second, and so late: what a snapshot knows of tiers is a second old at worst."""
        if not self._unfinished or self._present.get(name) is not present:
            return
        present.heartbeats += 1
        tiers: LruTiers = present.worker.tiers
        booked = sum(ticket.booking.gpu_seconds for ticket in present.jobs.values() if ticket.booking)
        heartbeat = Heartbeat(
            present.heartbeats,
            full=True,
            residency=tiers.residency(),
            booked=(BookedWork(ROUTER, booked),),
            slots=DEVICE_SLOTS,
            costs=self._world.costs,
        )
        self._fleet.heard(present.member, heartbeat)
        self._timeline.after(HEARTBEAT_S, partial(self._beat, name, present))

    def _leave(self, turn: int) -> None:
        if not (self._unfinished and self._churn):
            return
        name = self._names[turn % len(self._names)]
        present = self._present.pop(name)
        self._fleet.leave(present.member, "churn")
        for journey in present.worker.stop():
            self._scheduler.leave(present.jobs.pop(journey))
            self._enter(journey, paid=True)
        self._timeline.after(self._churn.away_s, partial(self._join, name))
        self._timeline.after(self._churn.every_s, partial(self._leave, turn + 1))


def _tell(worker: SimulatedWorker, command: Command) -> None:
    if isinstance(command, Prefetch):
        worker.prefetch(command.digest)


def _job(brand: int) -> Job:
    return Job(f"brand-{brand}", RECIPE, SIZE, STEPS, images=1, digests=(f"{brand:064x}",))


class NoConnection:
    """Simulated workers are given their jobs by hand."""

    def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[WorkerCall]:
        raise NotImplementedError

    async def retire(self) -> None:
        pass
