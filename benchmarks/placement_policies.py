"""Ways to choose a worker: the router's own placement, whole and with parts taken away, beside what others do.

Each sees the same snapshot of the fleet, and how many jobs each worker has; none knows that time is virtual.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from services.router import consistent_hash
from services.router.fleet import FleetSnapshot, WorkerView
from services.router.placement import LOAD_BOUND, Job, SwapCosts, place


class Choice(NamedTuple):
    """A worker, and the work to be booked on it. The other policies count jobs, so theirs books nothing."""

    worker: str
    gpu_seconds: float = 0.0


class Policy(Protocol):
    def __call__(self, job: Job, fleet: FleetSnapshot, in_flight: Mapping[str, int], /) -> Choice: ...


@dataclass(frozen=True)
class Looksmith:
    """The router's placement, and by how much it may be wrong.

    Of 0.5 it takes up to 50 % too much or too little for a worker's booked work, anew at every look (``noise``),
    or for a job that it books (``job_noise``).
    """

    costs: SwapCosts
    rng: random.Random
    noise: float = 0.0
    job_noise: float = 0.0
    promised: bool = True
    own_bookings: bool = True
    homes: bool = True

    def __call__(self, job: Job, fleet: FleetSnapshot, _in_flight: Mapping[str, int]) -> Choice:
        if self.noise or not (self.promised and self.own_bookings):
            fleet = replace(fleet, workers=tuple(map(self._seen, fleet.workers)))
        placement = place(job, fleet, fleet.taken_at, costs=self.costs)
        best = placement.candidates[0]
        if not self.homes:
            able = [candidate for candidate in placement.candidates if candidate.eligible]
            best = min(able, key=lambda candidate: (candidate.expected - candidate.penalty, candidate.worker))
        return Choice(best.worker, best.painting * self.rng.uniform(1 - self.job_noise, 1 + self.job_noise))

    def _seen(self, view: WorkerView) -> WorkerView:
        booked, promised = view.booked_here, view.promised
        if not self.own_bookings:
            booked, promised = sum(work.gpu_seconds for work in view.heartbeat.booked), frozenset()
        if not self.promised:
            promised = frozenset()
        if self.noise:
            booked *= self.rng.uniform(1 - self.noise, 1 + self.noise)
        return replace(view, booked_here=booked, promised=promised)


def one_owner(job: Job, fleet: FleetSnapshot, _in_flight: Mapping[str, int]) -> Choice:
    """Plain consistent hashing: the brand's home, always."""
    return Choice(_order(job, fleet)[0])


def bounded_load(job: Job, fleet: FleetSnapshot, in_flight: Mapping[str, int]) -> Choice:
    """The first along the hash order with less than 1.25 times its share of all jobs (arXiv 1608.01350)."""
    jobs = sum(in_flight[view.name] for view in fleet.workers) + 1
    bound = math.ceil(LOAD_BOUND * jobs / len(fleet.workers))
    return Choice(next(worker for worker in _order(job, fleet) if in_flight[worker] < bound))


@dataclass(frozen=True)
class LeastRequest:
    rng: random.Random

    def __call__(self, _job: Job, fleet: FleetSnapshot, in_flight: Mapping[str, int]) -> Choice:
        return Choice(_fewest(fleet.workers, in_flight, self.rng))


@dataclass(frozen=True)
class PreferResident:
    """Least request among those that hold the adapter nearest to the device, as their heartbeats say."""

    rng: random.Random

    def __call__(self, job: Job, fleet: FleetSnapshot, in_flight: Mapping[str, int]) -> Choice:
        (digest,) = job.digests
        nearest = min(view.tier(digest) for view in fleet.workers)
        holders = [view for view in fleet.workers if view.tier(digest) is nearest]
        return Choice(_fewest(holders, in_flight, self.rng))


@dataclass(frozen=True)
class Anywhere:
    rng: random.Random

    def __call__(self, _job: Job, fleet: FleetSnapshot, _in_flight: Mapping[str, int]) -> Choice:
        return Choice(self.rng.choice(fleet.workers).name)


WHOLE, NOISY, NOISY_JOBS = "Looksmith", "with 50 % noise", "with 50 % job noise"
BOUNDED, LEAST = "bounded load", "least request"

Maker = Callable[[SwapCosts, random.Random], Policy]
BASELINES: dict[str, Maker] = {
    "one owner": lambda _costs, _rng: one_owner,
    BOUNDED: lambda _costs, _rng: bounded_load,
    LEAST: lambda _costs, rng: LeastRequest(rng),
    "prefer resident": lambda _costs, rng: PreferResident(rng),
    "random": lambda _costs, rng: Anywhere(rng),
}
ABLATIONS: dict[str, Maker] = {
    "without penalty": lambda costs, rng: Looksmith(replace(costs, new_home_images=0.0), rng),
    "without promised": lambda costs, rng: Looksmith(costs, rng, promised=False),
    "without own bookings": lambda costs, rng: Looksmith(costs, rng, own_bookings=False),
    "without homes": lambda costs, rng: Looksmith(costs, rng, homes=False),
}
POLICIES: dict[str, Maker] = {
    WHOLE: Looksmith,
    NOISY: lambda costs, rng: Looksmith(costs, rng, noise=0.5),
    NOISY_JOBS: lambda costs, rng: Looksmith(costs, rng, job_noise=0.5),
    **BASELINES,
    **ABLATIONS,
}


def _order(job: Job, fleet: FleetSnapshot) -> tuple[str, ...]:
    return consistent_hash.rank(job.brand, {view.name: view.registration.speed for view in fleet.workers})


def _fewest(views: tuple[WorkerView, ...] | list[WorkerView], in_flight: Mapping[str, int], rng: random.Random) -> str:
    fewest = min(in_flight[view.name] for view in views)
    return rng.choice([view.name for view in views if in_flight[view.name] == fewest])
