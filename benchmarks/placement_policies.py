"""Ways to choose a worker: the router's own placement, whole and with parts taken away, beside what others do.

Each is a policy of the router's scheduler, so that bookings, fair queue and deadlines are the same for all; none knows
that time is virtual.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from services.router.demand import Demand
from services.router.fleet import Fleet, FleetSnapshot, WorkerView
from services.router.placement import LOAD_BOUND, Job, Placement, SwapCosts, hash_order, place
from services.router.scheduler import Policy


@dataclass(frozen=True)
class Sight:
    """How well a fleet is seen.

    With ``noise`` 0.5 a worker's booked work seems up to 50 % more or less than it is, anew at every look. Without
    ``own_bookings`` only what workers last reported counts.
    """

    noise: float = 0.0
    own_bookings: bool = True


CLEAR = Sight()


class SeenFleet(Fleet):
    """A fleet that is not seen as it is."""

    def look(self, sight: Sight, rng: random.Random) -> None:
        self._sight, self._rng = sight, rng

    def snapshot(self) -> FleetSnapshot:
        snapshot = super().snapshot()
        if self._sight == CLEAR:
            return snapshot
        return replace(snapshot, workers=tuple(map(self._seen, snapshot.workers)))

    def find(self, name: str) -> WorkerView | None:
        view = super().find(name)
        return self._seen(view) if view and self._sight != CLEAR else view

    def _seen(self, view: WorkerView) -> WorkerView:
        sight, booked, waiting = self._sight, view.booked_here, view.waiting
        if not sight.own_bookings:
            booked, waiting = sum(w.gpu_seconds for w in view.heartbeat.booked), {}
        if sight.noise:
            error = self._rng.uniform(1 - sight.noise, 1 + sight.noise)
            booked *= error
            waiting = {brand: replace(each, gpu_seconds=each.gpu_seconds * error) for brand, each in waiting.items()}
        return replace(view, booked_here=booked, waiting=waiting)


@dataclass(frozen=True)
class Way:
    """A policy, how it sees the fleet, whether workers that come free take work over, and brands get further homes."""

    policy: Callable[[random.Random], Policy]
    sight: Sight = CLEAR
    takes_over: bool = False
    follows_demand: bool = False
    costs: Callable[[SwapCosts], SwapCosts] = lambda costs: costs


@dataclass(frozen=True)
class Looksmith:
    """The router's placement. With ``job_noise`` 0.5 it takes up to 50 % too much or too little for a job."""

    rng: random.Random
    job_noise: float = 0.0
    homes: bool = True

    def __call__(
        self, job: Job, fleet: FleetSnapshot, now: float, /, *, excluded: Collection[str], costs: SwapCosts
    ) -> Placement:
        placement = place(job, fleet, now, excluded=excluded, costs=costs)
        if not self.homes:
            able = [candidate for candidate in placement.candidates if candidate.eligible]
            best = min(able, key=lambda candidate: (candidate.expected - candidate.penalty, candidate.worker))
            placement = replace(placement, worker=best.worker, tier=best.tier)
        error = self.rng.uniform(1 - self.job_noise, 1 + self.job_noise)
        return replace(placement, gpu_seconds=placement.gpu_seconds * error)


#: The worker that a job goes to.
Choice = Callable[[Job, Sequence[WorkerView], FleetSnapshot], str]


@dataclass(frozen=True)
class Other:
    """A policy that chooses by something else than the time that a job will take."""

    choose: Choice

    def __call__(
        self, job: Job, fleet: FleetSnapshot, now: float, /, *, excluded: Collection[str], costs: SwapCosts
    ) -> Placement:
        placement = place(job, fleet, now, excluded=excluded, costs=costs)
        worker = self.choose(job, fleet.workers, fleet)
        return replace(placement, worker=worker, reason="chosen")


def one_owner(job: Job, _views: Sequence[WorkerView], fleet: FleetSnapshot) -> str:
    """Plain consistent hashing: the brand's home, always."""
    return hash_order(job.brand, fleet)[0]


def bounded_load(job: Job, views: Sequence[WorkerView], fleet: FleetSnapshot) -> str:
    """The first along the hash order with less than 1.25 times its share of all jobs (arXiv 1608.01350)."""
    in_flight = {view.name: view.jobs_here for view in views}
    bound = math.ceil(LOAD_BOUND * (sum(in_flight.values()) + 1) / len(views))
    return next(worker for worker in hash_order(job.brand, fleet) if in_flight[worker] < bound)


def least_request(rng: random.Random) -> Choice:
    return lambda _job, views, _fleet: _fewest(views, rng)


def prefer_resident(rng: random.Random) -> Choice:
    """Least request among those that hold the adapter nearest to the device, as their heartbeats say."""

    def choose(job: Job, views: Sequence[WorkerView], _fleet: FleetSnapshot) -> str:
        (digest,) = job.digests
        nearest = min(view.tier(digest) for view in views)
        return _fewest([view for view in views if view.tier(digest) is nearest], rng)

    return choose


def anywhere(rng: random.Random) -> Choice:
    return lambda _job, views, _fleet: rng.choice(views).name


def _fewest(views: Sequence[WorkerView], rng: random.Random) -> str:
    fewest = min(view.jobs_here for view in views)
    return rng.choice([view.name for view in views if view.jobs_here == fewest])


WHOLE, NOISY, NOISY_JOBS = "Looksmith", "with 50 % noise", "with 50 % job noise"
BOUNDED, LEAST = "bounded load", "least request"

BASELINES: dict[str, Way] = {
    "one owner": Way(lambda _rng: Other(one_owner)),
    BOUNDED: Way(lambda _rng: Other(bounded_load)),
    LEAST: Way(lambda rng: Other(least_request(rng))),
    "prefer resident": Way(lambda rng: Other(prefer_resident(rng))),
    "random": Way(lambda rng: Other(anywhere(rng))),
}
_WHOLE = Way(Looksmith, takes_over=True, follows_demand=True)
ABLATIONS: dict[str, Way] = {
    "without penalty": replace(_WHOLE, costs=lambda costs: replace(costs, new_home_images=0.0)),
    "without own bookings": replace(_WHOLE, sight=Sight(own_bookings=False)),
    "without homes": replace(_WHOLE, policy=lambda rng: Looksmith(rng, homes=False)),
    "without taking over": replace(_WHOLE, takes_over=False),
    "without further homes": replace(_WHOLE, follows_demand=False),
}
POLICIES: dict[str, Way] = {
    WHOLE: _WHOLE,
    NOISY: replace(_WHOLE, sight=Sight(noise=0.5)),
    NOISY_JOBS: replace(_WHOLE, policy=lambda rng: Looksmith(rng, job_noise=0.5)),
    **BASELINES,
    **ABLATIONS,
}


class NoDemand(Demand):
    """Every brand has one home."""

    def note(self, brand: str, gpu_seconds: float, now: float) -> None:
        pass
