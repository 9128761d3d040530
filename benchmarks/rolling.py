"""A rolling restart of every worker, router and registry under callers, as an upgrade does it: one after the other.

Measures what the fleet can do, asks for a part of that, and compares latencies before and during the restart.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.callers import Asked, Callers, numbered
from benchmarks.fleet_processes import Fleet, fleet, house_style_files
from benchmarks.lost_routers import back
from benchmarks.lost_workers import SMALL, STAND_INS, every_request, fault_figures, first_run
from benchmarks.mortal import Mortal

CALLERS, ROUNDS = 10, 3
#: Of the requests that the fleet can do; with one of three workers away it is half as much again. Its devices are busy
#: for longer: a batch that is half full takes nearly as long.
LOAD = 0.6
CAPACITY_S, BEFORE_S = 15.0, 45.0
#: A worker finishes its jobs, a router its calls.
ENDS_WITHIN_S = 90.0


async def rolling(folder: Path) -> dict[str, float]:
    """Ten callers who know both routers; what fails is an error that the client could not mend."""
    async with fleet(folder, replace(STAND_INS, routers=2), house_style_files(folder)) as running:
        first, second = (router.address for router in running.routers)
        orders = [(first, second), (second, first)] * (CALLERS // 2)
        requests = every_request((SMALL,))
        undisturbed = await first_run((first,), requests)

        def callers(every_s: float) -> Callers:
            wanted = numbered(lambda number: requests[number % len(requests)])
            return Callers(orders, wanted, max_resumes=4, every_s=every_s)

        # 1. What the fleet can do
        flat_out = callers(0.0)
        began = time.perf_counter()
        async with flat_out.calling():
            await asyncio.sleep(CAPACITY_S)
        capacity = len(flat_out.asked) / (time.perf_counter() - began)
        # 2. A part of it, undisturbed and then with the restart
        asking = callers(CALLERS / (LOAD * capacity))
        async with asking.calling():
            await asyncio.sleep(BEFORE_S)
            upto, began = len(asking.asked), time.perf_counter()
            for _ in tqdm(range(ROUNDS), desc="rolling restarts"):
                await restart_all(running)
            seconds = time.perf_counter() - began
    before, during = asking.asked[:upto], asking.asked[upto:]
    return {
        **fault_figures("rolling", asking, undisturbed),
        "rolling_rounds": float(ROUNDS),
        "rolling_round_s": seconds / ROUNDS,
        "rolling_capacity_per_s": capacity,
        "rolling_load": len(before) / BEFORE_S / capacity,
        "rolling_busy": sum(each.gpu_seconds for each in before) / (len(running.workers) * BEFORE_S),
        "rolling_p50_before_s": _percentile(before, 50),
        "rolling_p50_during_s": _percentile(during, 50),
        "rolling_p99_before_s": _percentile(before, 99),
        "rolling_p99_during_s": _percentile(during, 99),
        "rolling_requests_during": float(len(during)),
        "rolling_resumed": float(sum(asked.witness.accepted > 1 for asked in during)),
        "rolling_redispatched": float(sum(asked.witness.attempts > 1 for asked in during)),
    }


async def restart_all(running: Fleet) -> None:
    for worker in running.workers:
        await _end(worker)
        await running.anew(worker)
    for router in running.routers:
        await _end(router)
        await back(running, router)
    await _end(running.registry)
    await running.registry.start()
    await running.registry.serves()


async def _end(process: Mortal) -> None:
    process.signal(signal.SIGTERM)
    if code := await process.ended(within_s=ENDS_WITHIN_S):
        raise RuntimeError(f"{process.name} ended with code {code}; see {process.log}")


def _percentile(asked: Sequence[Asked], percent: float) -> float:
    """Seconds that requests took which have ended well."""
    return float(np.percentile([each.took_s for each in asked if each.over.is_set() and not each.error], percent))
