"""More work than workers can do, in real processes: what they are kept busy with, who is turned away, how soon.

Capacity is measured first, by callers who each wait for their picture; the flood does not wait for anyone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from benchmarks.asking import Outcome
from benchmarks.load import Load, elsewhere
from benchmarks.router_stack import RouterStack, router_stack

WORKERS, BRANDS = 3, 12
#: How much slower than measured the engine is: enough that callers, router and workers together leave cores free.
SCALE = 4.0
CALLERS_A_WORKER = 16  # two full batches
CAPACITY_S, FLOOD_S, OVERLOAD = 20.0, 60.0, 3.0
DEADLINE_S = 6.0
#: Left out at both ends of a run: queues fill and empty there.
EDGE_S = 4.0
#: Fairness: what all ask for together of what the workers can do, and how many times its share one of them then does.
FAIR_LOAD, FAIR_BRANDS, ALPHA, GREEDY_RANK, GREED, FAIR_S = 0.7, 20, 1.1, 9, 10.0, 60.0
REFUSALS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")


async def overload(folder: Path) -> dict[str, float]:
    """A minute of three times what the workers can do, with a deadline of seconds."""
    brands = {f"brand-{number}": 1.0 for number in range(BRANDS)}
    async with _workers(folder, list(brands)) as stack:
        capacity = await _capacity(stack, brands)
        rate = OVERLOAD * capacity["pictures"]
        outcomes = await elsewhere(Load(stack.router, FLOOD_S, brands, rate=rate, timeout_s=DEADLINE_S))
    delivered = _delivered(outcomes, FLOOD_S)
    refused = [outcome for outcome in outcomes if outcome.refused]
    told = [outcome for outcome in refused if outcome.code in REFUSALS]
    accepted = [outcome for outcome in outcomes if not outcome.refused]
    finished = [outcome for outcome in accepted if outcome.ok]
    late = [outcome for outcome in accepted if outcome.code == "DEADLINE_EXCEEDED"]
    for what, count in Counter((o.code, o.reason, o.accepted_at is not None) for o in outcomes).most_common():
        print(f"{count:6d}  {what}")
    return {
        "overload_busy_share": delivered["gpu_seconds"] / capacity["gpu_seconds"],
        "overload_pictures_share": delivered["pictures"] / capacity["pictures"],
        "overload_refusals_untold": float(len(refused) - sum(o.retry_after_s is not None for o in told)),
        "overload_refusal_p99_ms": _percentile(refused, 99),
        "overload_refusal_max_ms": _percentile(refused, 100),
        "overload_late_share": len(late) / (len(finished) + len(late)),
        "overload_failed": float(len(accepted) - len(finished) - len(late)),
        "overload_capacity_busy": capacity["gpu_seconds"] / WORKERS,
        "overload_capacity_per_s": capacity["pictures"],
        "overload_asked_per_s": len(outcomes) / FLOOD_S,
        "overload_finished": float(len(finished)),
        "overload_refused": float(len(refused)),
    }


async def fairness(folder: Path) -> dict[str, float]:
    """What others wait while one brand asks for ten times its share, beside what they wait while it asks for its own.

    Shares are Zipf's, and the greedy brand is of middling rank, as in virtual time (benchmarks/placement_demand.py).
    """
    shares = {f"brand-{number}": float(number + 1) ** -ALPHA for number in range(FAIR_BRANDS)}
    greedy = f"brand-{GREEDY_RANK}"
    async with _workers(folder, list(shares)) as stack:
        capacity = await _capacity(stack, shares)
        rate = FAIR_LOAD * capacity["pictures"]
        calm = await elsewhere(Load(stack.router, FAIR_S, shares, rate=rate))
        times = 1 + (GREED - 1) * shares[greedy] / sum(shares.values())  # all of them together ask for so many times
        wanted = shares | {greedy: GREED * shares[greedy]}
        greed = await elsewhere(Load(stack.router, FAIR_S, wanted, rate=rate * times, timeout_s=FAIR_S))
    before, after = ([o for o in outcomes if o.brand != greedy] for outcomes in (calm, greed))
    return {
        "fair_others_p95_vs_calm": _percentile(after, 95) / _percentile(before, 95),
        "fair_others_p50_vs_calm": _percentile(after, 50) / _percentile(before, 50),
        "fair_others_p95_ms": _percentile(after, 95),
        "fair_others_p95_calm_ms": _percentile(before, 95),
        "fair_others_failed": float(sum(not outcome.ok for outcome in (*before, *after))),
        "fair_greedy_p95_ms": _percentile([o for o in greed if o.brand == greedy], 95),
        "fair_load": FAIR_LOAD * times,
    }


@asynccontextmanager
async def _workers(folder: Path, brands: list[str]) -> AsyncIterator[RouterStack]:
    async with router_stack(folder, brands=brands) as stack:
        for number in range(WORKERS):
            await stack.start_worker(f"worker-{number}", WORKER_TIMED_SCALE=SCALE)
        yield stack


async def _capacity(stack: RouterStack, brands: dict[str, float]) -> dict[str, float]:
    """What the workers do in a second when all their rows are always asked for; warms them up first."""
    load = Load(stack.router, CAPACITY_S, brands, callers=CALLERS_A_WORKER * WORKERS)
    await elsewhere(Load(stack.router, EDGE_S, brands, callers=CALLERS_A_WORKER * WORKERS))
    outcomes = await elsewhere(load)
    if failed := [outcome for outcome in outcomes if not outcome.ok]:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} calls failed without any overload: {failed[0]}")
    return _delivered(outcomes, CAPACITY_S)


def _delivered(outcomes: Sequence[Outcome], seconds: float) -> dict[str, float]:
    """A second: GPU-seconds and pictures of what was finished within the run, its ends left out."""
    began = min(outcome.asked_at for outcome in outcomes)
    within = [o for o in outcomes if o.ok and EDGE_S <= o.ended_at - began < seconds]
    length = seconds - EDGE_S
    return {
        "gpu_seconds": sum(outcome.gpu_seconds for outcome in within) / length,
        "pictures": sum(len(outcome.images_at) for outcome in within) / length,
    }


def _percentile(outcomes: Sequence[Outcome], percent: float) -> float:
    """Milliseconds from asking to the end."""
    return float(np.percentile([outcome.seconds for outcome in outcomes], percent)) * 1e3 if outcomes else 0.0
