"""Chooses the worker for a job: the least expected completion along the brand's hash order. Pure.

Knows load and residency from a snapshot; knows nothing about gRPC, and books nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from looksmith.nouns import PinnedAdapter, Tier
from services.chassis.painting import RecipeFacts, Settled
from services.router import consistent_hash
from services.router.fleet import FleetSnapshot, WorkerView
from services.router.members import WorkerState

#: Seconds until an adapter at a tier is usable. The ratios of the policy simulation; measured figures replace them.
TIER_SECONDS = {Tier.DEVICE: 0.0, Tier.HOST: 0.1, Tier.DISK: 0.3, Tier.STORE: 1.0}
#: A worker without an adapter that is not the brand's home must be ahead by so many images to become one. Of 0.5, 1,
#: 1.5 and 2 the last gave the shortest p99 at load 0.8 and the fewest fetches, for 14 % on the median at load 0.6
#: (benchmarks/placement.py).
NEW_HOME_PENALTY_IMAGES = 2.0
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
    """What placement must know of a request."""

    brand: str
    recipe: RecipeFacts
    size: tuple[int, int]
    steps: int
    images: int
    guided: bool = False
    digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, settled: Settled) -> Job:
        return cls(
            brand=settled.request.brand,
            recipe=settled.recipe,
            size=(settled.width, settled.height),
            steps=settled.steps,
            images=len(settled.images_to_paint),
            guided=settled.guidance > 1,
            digests=tuple(adapter.digest for adapter in settled.adapters),
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


@dataclass(frozen=True)
class Placement:
    """The worker chosen, or None, why, and every candidate, best first."""

    worker: str | None
    reason: str
    tier: Tier | None
    gpu_seconds: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Explanation:
    """Where a request that is not made would go, and what it resolves to."""

    adapters: tuple[PinnedAdapter, ...]
    placement: Placement


class _Rating(NamedTuple):
    """What an able worker offers, and sorts by; lighter than the Candidate that is told of it in the end."""

    expected: float
    rank: int
    worker: str
    held: str
    tier: Tier | None
    booked: float
    adapter: float
    penalty: float
    painting: float

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


def place(
    job: Job, fleet: FleetSnapshot, now: float, *, excluded: Collection[str] = (), costs: SwapCosts = SWAP_COSTS
) -> Placement:
    """Where ``job`` ends soonest. ``excluded`` workers have failed it; ``now`` is on the fleet's clock."""
    views = {view.name: view for view in fleet.workers}
    order = consistent_hash.rank(job.brand, {name: view.registration.speed for name, view in views.items()})
    barred = _barred(job, fleet, now, excluded)
    unfit = [Candidate(name, rank, barred[name]) for rank, name in enumerate(order) if name in barred]
    able = sorted(_rated(job, views[name], rank, costs) for rank, name in enumerate(order) if name not in barred)
    if not able:
        return Placement(None, "no worker can take it", None, 0.0, tuple(unfit))
    best, *others = able
    reason = _why_chosen(best, others)
    losers = [other.told(f"{other.expected - best.expected:.2f} s later") for other in others]
    return Placement(best.worker, reason, best.tier, best.painting, (best.told(reason), *losers, *unfit))


def _barred(job: Job, fleet: FleetSnapshot, now: float, excluded: Collection[str]) -> dict[str, str]:
    """The workers that can't be asked, and why."""
    barred = {view.name: why for view in fleet.workers if (why := _why_unfit(job, view, excluded))}
    ejected = {view.name: "ejected" for view in fleet.workers if view.state is WorkerState.EJECTED}
    if barred.keys() | ejected.keys() < {view.name for view in fleet.workers}:
        barred = ejected | barred  # else one that failed lately is better than none
    able = [view for view in fleet.workers if view.name not in barred]
    mean = fmean(view.booked for view in able) if able else 0.0
    for view in able:
        if now - view.heard_at > STALE_S and view.booked > LOAD_BOUND * mean:
            barred[view.name] = "silent for two heartbeats, and booked over the bound"
    return barred


def _why_unfit(job: Job, view: WorkerView, excluded: Collection[str]) -> str | None:
    recipe = view.recipe(job.recipe.digest)
    if recipe is None:
        return f"does not serve recipe {job.recipe.name} ({job.recipe.digest[:12]})"
    if job.size not in recipe.sizes:
        return f"does not paint {job.size[0]}x{job.size[1]}"
    if view.state is WorkerState.DRAINING:
        return "draining"
    return "failed this request" if view.name in excluded else None


def _rated(job: Job, view: WorkerView, rank: int, costs: SwapCosts) -> _Rating:
    tier = max((view.tier(digest) for digest in job.digests), default=None)
    on_its_way = tier is Tier.STORE and all(
        digest in view.promised or view.tier(digest) < Tier.STORE for digest in job.digests
    )
    painting = _painting_seconds(job, view)
    if tier is None:
        words, adapter = "no adapter", 0.0
    elif on_its_way:  # an earlier job brings it; without this, concurrent first requests would scatter
        words, adapter = "adapter on its way", costs.tier_seconds[Tier.HOST]
    else:
        words, adapter = _TIER_WORDS[tier], costs.tier_seconds[tier]
    makes_home = tier is Tier.STORE and not on_its_way and rank > 0
    penalty = costs.new_home_images * painting / max(job.images, 1) if makes_home else 0.0
    booked = view.booked
    return _Rating(
        worker=view.name,
        rank=rank,
        held=words,
        tier=tier,
        expected=booked + adapter + penalty + painting,
        booked=booked,
        adapter=adapter,
        penalty=penalty,
        painting=painting,
    )


def _painting_seconds(job: Job, view: WorkerView) -> float:
    """What the images cost the device: as measured in the smallest batch, or by the constants and declared speed."""
    rows = 2 if job.guided else 1
    measured = None
    for cost in view.heartbeat.costs:  # a plain loop: it runs for every worker at every decision
        if cost.recipe == job.recipe.name and cost.size == job.size and (not measured or cost.rows < measured.rows):
            measured = cost
    if measured:
        image = job.steps * measured.step_seconds * rows / measured.rows + measured.fixed_seconds
    else:
        image = (job.steps * UNMEASURED_STEP_SECONDS * rows + UNMEASURED_FIXED_SECONDS) / view.registration.speed
    return job.images * image


def _why_chosen(best: _Rating, others: Collection[_Rating]) -> str:
    if best.rank == 0:
        place = "home"
    elif any(other.rank < best.rank for other in others):
        place = "sooner than home"
    else:
        place = "next in line"
    return f"{place}, {best.held}"
