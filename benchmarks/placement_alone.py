"""What placement is worth without any load: whose brands move when a worker goes, and how long a decision takes.

Takes no simulation; its callers say what must hold.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from benchmarks.placement_simulation import COSTS, NOON, RECIPE, SIZE, STEPS
from benchmarks.simulated_workers import DEVICE_SLOTS, HOST_SLOTS
from looksmith.nouns import Tier
from services.router import consistent_hash
from services.router.fleet import FleetSnapshot, WorkerView
from services.router.members import Heartbeat, Registration, WorkerState
from services.router.placement import Job, place

FLEETS = (4, 8, 16, 32, 64)
BRANDS, DECIDED_BRANDS, DECISIONS = 10_000, 500, 3_000


def homes(workers: Sequence[str], brands: int = BRANDS) -> list[str]:
    """The home of every brand, as a router finds it that met the workers in this order."""
    weights = dict.fromkeys(workers, 1.0)
    return [consistent_hash.rank(f"brand-{brand}", weights)[0] for brand in range(brands)]


def moves(size: int, brands: int = BRANDS) -> tuple[int, float]:
    """Takes the worker with most brands away from ``size``: brands of others that move, and the share that moves."""
    workers = [f"worker-{number}" for number in range(size)]
    before = homes(workers, brands)
    ((lost, _),) = Counter(before).most_common(1)
    after = homes([worker for worker in workers if worker != lost], brands)
    moved = [was for was, is_now in zip(before, after, strict=True) if was != is_now]
    return sum(was != lost for was in moved), len(moved) / brands


def decision_seconds(size: int, *, seed: int = 0) -> float:
    """Median of deciding for one of 500 brands, with every worker's tiers full and all of them at work."""
    rng = random.Random(seed)
    jobs = [
        Job(f"brand-{brand}", RECIPE, SIZE, STEPS, images=1, digests=(f"{brand:064x}",))
        for brand in range(DECIDED_BRANDS)
    ]
    fleet = FleetSnapshot(0.0, tuple(_busy(f"worker-{number:02d}", jobs, rng) for number in range(size)))
    took = []
    for job in rng.choices(jobs, k=DECISIONS):
        began = time.perf_counter()
        place(job, fleet, 0.0)
        took.append(time.perf_counter() - began)
    return median(took)


def _busy(name: str, jobs: Sequence[Job], rng: random.Random) -> WorkerView:
    held = [job.digests[0] for job in rng.sample(jobs, HOST_SLOTS)]
    residency = dict.fromkeys(held, Tier.HOST) | dict.fromkeys(held[:DEVICE_SLOTS], Tier.DEVICE)
    blank = WorkerView(
        registration=Registration(name, "1", "simulated:1", (RECIPE,)),
        state=WorkerState.READY,
        heartbeat=Heartbeat(1, full=True, residency=residency, costs=COSTS),
        heard_at=0.0,
        heard_time=NOON,
    )
    return replace(blank, booked_here=rng.uniform(0, 4))
