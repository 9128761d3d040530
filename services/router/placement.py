"""Chooses the worker for a job: the least expected completion along the brand's hash order. Pure.

Knows load and residency from a snapshot; knows nothing about gRPC, and books nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from looksmith.nouns import PinnedAdapter, Tier
from services.chassis.painting import RecipeFacts, Settled
from services.router import consistent_hash
from services.router.fleet import FleetSnapshot, WorkerView
from services.router.members import WorkerState

#: Seconds until an adapter at a tier is usable. The ratios of the policy simulation; measured figures replace them.
TIER_SECONDS = {Tier.DEVICE: 0.0, Tier.HOST: 0.1, Tier.DISK: 0.3, Tier.STORE: 1.0}
#: A worker without an adapter that is not one of the brand's homes must be ahead by so many images to become one. At
#: load 0.8 of world A 2 to 4 differ little; 3 fetched half as much as least request in world B, where more homes buy
#: nothing, and 4 cost a flash crowd 15 % at p99 (benchmarks/placement.py).
NEW_HOME_PENALTY_IMAGES = 3.0
#: Until a worker has measured a recipe: about four steps of SD 1.5 on a small GPU.
UNMEASURED_STEP_SECONDS = 0.1
UNMEASURED_FIXED_SECONDS = 0.3
#: Two heartbeats. Beyond it a worker's load may be anything, and the bound guards.
STALE_S = 2.0
#: Share of the mean load that a worker with stale data may carry (bounded-load hashing, arXiv 1908.08762).
LOAD_BOUND = 1.25

_TIER_WORDS = {
    Tier.DEVICE: "adapter on device",
    Tier.HOST: "adapter in memory",
    Tier.DISK: "adapter on disk",
    Tier.STORE: "adapter in the store",
}


@dataclass(frozen=True)
class SwapCosts:
    """What placement takes swaps to cost: seconds from each tier, and images that a new home must be ahead by."""

    tier_seconds: Mapping[Tier, float] = field(default_factory=lambda: TIER_SECONDS)
    new_home_images: float = NEW_HOME_PENALTY_IMAGES


SWAP_COSTS = SwapCosts()


@dataclass(frozen=True)
class Job:
    """What placement must know of a request, or of a portion of one.

    ``weight`` is its brand's fair share, and ``homes`` how many workers are its homes: the first in its hash order.
    """

    brand: str
    recipe: RecipeFacts
    size: tuple[int, int]
    steps: int
    images: int
    guided: bool = False
    digests: tuple[str, ...] = ()
    weight: float = 1.0
    homes: int = 1

    @property
    def rows(self) -> int:
        """Rows of a batch that it takes if all its images are in it."""
        return self.images * (2 if self.guided else 1)

    @classmethod
    def of(cls, settled: Settled, *, weight: float = 1.0) -> Job:
        return cls(
            brand=settled.request.brand,
            recipe=settled.recipe,
            size=(settled.width, settled.height),
            steps=settled.steps,
            images=len(settled.images_to_paint),
            guided=settled.guidance > 1,
            digests=tuple(adapter.digest for adapter in settled.adapters),
            weight=weight,
        )


@dataclass(frozen=True)
class Candidate:
    """A worker as placement saw it; times in seconds. ``rank`` 0 is the brand's home; no tier: no adapter is needed."""

    worker: str
    rank: int
    reason: str
    tier: Tier | None = None
    eligible: bool = False
    expected: float = 0.0
    booked: float = 0.0
    adapter: float = 0.0
    penalty: float = 0.0
    painting: float = 0.0


class Rating(NamedTuple):
    """What an able worker offers, and sorts by; lighter than the Candidate that is told of it in the end.

    ``measured``: the worker knows what painting costs there, rather than this router going by the constants.
    """

    expected: float
    rank: int
    worker: str
    held: str
    tier: Tier | None
    booked: float
    adapter: float
    penalty: float
    painting: float
    measured: bool

    def told(self, reason: str) -> Candidate:
        return Candidate(
            worker=self.worker,
            rank=self.rank,
            reason=reason,
            tier=self.tier,
            eligible=True,
            expected=self.expected,
            booked=self.booked,
            adapter=self.adapter,
            penalty=self.penalty,
            painting=self.painting,
        )


@dataclass(frozen=True)
class Placement:
    """The worker chosen, or None, and why; what able workers offered, the chosen one first, and who was not able."""

    worker: str | None
    reason: str
    tier: Tier | None
    gpu_seconds: float
    offers: tuple[Rating, ...] = ()
    unable: tuple[Candidate, ...] = ()

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Everybody, told why they won or lost; for people, who ask far less often than placements are made."""
        if not self.offers:
            return self.unable
        best, *others = self.offers
        losers = [other.told(f"{other.expected - best.expected:.2f} s later") for other in others]
        return (best.told(self.reason), *losers, *self.unable)

    @property
    def least_wait(self) -> float:
        """Seconds that work ahead and the painting take at least, as far as it is known.

        0 where a worker is free, or has not measured what such a job costs: it may always try.
        """
        waits = (offer.booked + offer.painting if offer.booked and offer.measured else 0.0 for offer in self.offers)
        return min(waits, default=0.0)

    @property
    def why_not(self) -> str:
        """Why no worker can take it."""
        return "; ".join(f"{c.worker}: {c.reason}" for c in self.unable) or "none has joined this router"


@dataclass(frozen=True)
class Explanation:
    """Where a request that is not made would go, and what it resolves to."""

    adapters: tuple[PinnedAdapter, ...]
    placement: Placement


def hash_order(brand: str, fleet: FleetSnapshot) -> tuple[str, ...]:
    """The workers in the order in which ``brand`` prefers them."""
    return consistent_hash.rank(brand, {view.name: view.registration.speed for view in fleet.workers})


def place(
    job: Job, fleet: FleetSnapshot, now: float, *, excluded: Collection[str] = (), costs: SwapCosts = SWAP_COSTS
) -> Placement:
    """Where ``job`` ends soonest. ``excluded`` workers have failed it; ``now`` is on the fleet's clock."""
    able, barred = _rated(job, fleet, now, excluded, costs)
    unable = tuple(Candidate(name, rank, why) for name, (rank, why) in barred.items())
    if not able:
        return Placement(None, "no worker can take it", None, unmeasured_seconds(job), unable=unable)
    best, *others = able
    return Placement(best.worker, _why_chosen(best, others), best.tier, best.painting, tuple(able), unable)


def able_workers(
    job: Job, fleet: FleetSnapshot, now: float, *, excluded: Collection[str] = (), costs: SwapCosts = SWAP_COSTS
) -> list[Rating]:
    """What each worker that can take ``job`` offers, the soonest first."""
    return _rated(job, fleet, now, excluded, costs)[0]


def _rated(
    job: Job, fleet: FleetSnapshot, now: float, excluded: Collection[str], costs: SwapCosts
) -> tuple[list[Rating], dict[str, tuple[int, str]]]:
    """Offers, the soonest first, and who makes none: their rank and why."""
    views = {view.name: view for view in fleet.workers}
    order = hash_order(job.brand, fleet)
    barred = _barred(job, fleet, now, excluded)
    able = sorted(rate(job, views[name], rank, costs, now) for rank, name in enumerate(order) if name not in barred)
    return able, {name: (rank, barred[name]) for rank, name in enumerate(order) if name in barred}


def _barred(job: Job, fleet: FleetSnapshot, now: float, excluded: Collection[str]) -> dict[str, str]:
    """The workers that can't be asked, and why."""
    barred = {view.name: why for view in fleet.workers if (why := unfit(job, view, excluded))}
    ejected = {view.name: "ejected" for view in fleet.workers if view.state is WorkerState.EJECTED}
    if barred.keys() | ejected.keys() < {view.name for view in fleet.workers}:
        barred = ejected | barred  # else one that failed lately is better than none
    able = [view for view in fleet.workers if view.name not in barred]
    mean = fmean(view.booked for view in able) if able else 0.0
    for view in able:
        if now - view.heard_at > STALE_S and view.booked > LOAD_BOUND * mean:
            barred[view.name] = "silent for two heartbeats, and booked over the bound"
    return barred


def unfit(job: Job, view: WorkerView, excluded: Collection[str]) -> str | None:
    """Why a worker can't take a job; None if it can."""
    recipe = view.recipe(job.recipe.digest)
    if recipe is None:
        return f"does not serve recipe {job.recipe.name} ({job.recipe.digest[:12]})"
    if job.size not in recipe.sizes:
        return f"does not paint {job.size[0]}x{job.size[1]}"
    if view.state in {WorkerState.DRAINING, WorkerState.STALLED, WorkerState.RESETTING}:
        return str(view.state)
    return "failed this request" if view.name in excluded else None


def rate(job: Job, view: WorkerView, rank: int, costs: SwapCosts, now: float) -> Rating:
    """When a worker, the brand's ``rank``-th by hash, would be done with a job, and of what parts that time is."""
    tier = max((view.tier(digest) for digest in job.digests), default=None)
    painting = _painting_seconds(job, view)
    if tier is None:
        words, adapter = "no adapter", 0.0
    else:
        words, adapter = _TIER_WORDS[tier], costs.tier_seconds[tier]
    makes_home = tier is Tier.STORE and rank >= job.homes
    penalty = costs.new_home_images * painting / max(job.images, 1) if makes_home else 0.0
    booked = view.ahead(job.brand, job.weight, painting, now)
    return Rating(
        worker=view.name,
        rank=rank,
        held=words,
        tier=tier,
        expected=booked + adapter + penalty + painting,
        booked=booked,
        adapter=adapter,
        penalty=penalty,
        painting=painting,
        measured=view.cost(job.recipe.name, job.size) is not None,
    )


def _painting_seconds(job: Job, view: WorkerView) -> float:
    """What the images cost the device: as measured in the smallest batch, or by the constants and declared speed."""
    measured = view.cost(job.recipe.name, job.size)
    if measured is None:
        return unmeasured_seconds(job) / view.registration.speed
    rows = (2 if job.guided else 1) / measured.rows
    return job.images * (job.steps * measured.step_seconds * rows + measured.fixed_seconds)


def unmeasured_seconds(job: Job) -> float:
    """What the images may cost a device of which nothing is known."""
    return job.images * (job.steps * UNMEASURED_STEP_SECONDS * (2 if job.guided else 1) + UNMEASURED_FIXED_SECONDS)


def _why_chosen(best: Rating, others: Collection[Rating]) -> str:
    if best.rank == 0:
        place = "home"
    elif any(other.rank < best.rank for other in others):
        place = "sooner than home"
    else:
        place = "next in line"
    return f"{place}, {best.held}"
