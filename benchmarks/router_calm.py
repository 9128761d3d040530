"""Two workers with the real engine on a machine that is too small for them, asked for more than they can do.

Nobody is broken, so nobody may be taken for it: ejected, stalled, lost or failed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from benchmarks.load import Load, elsewhere
from benchmarks.router_stack import RouterStack, router_stack

WORKERS, BRANDS, CALLERS = 2, 8, 32
#: What a router says when it takes a worker for broken, or for gone.
FALSE_ALARMS = ("worker.ejected", "worker.left", "attempt.failed")


async def ejections(folder: Path, *, seconds: float) -> dict[str, float]:
    """Counts them in the router's log over so many seconds; every request must be painted, too."""
    brands = {f"brand-{number}": 1.0 for number in range(BRANDS)}
    async with router_stack(folder, brands=list(brands)) as stack:
        for number in range(WORKERS):
            await stack.start_worker(f"worker-{number}", WORKER_ENGINE="bank", WORKER_THREADS=1)
        load = Load(stack.router, seconds, brands, callers=CALLERS, request={"count": 2, "steps": 4})
        calling = asyncio.create_task(elsewhere(load))
        began = time.monotonic()
        with tqdm(total=round(seconds), desc="seconds of full load") as progress:
            while not calling.done():
                await asyncio.wait([calling], timeout=1.0)
                progress.update(round(time.monotonic() - began) - progress.n)
        outcomes = calling.result()
        alarms = Counter(_alarms(stack))
    for what, count in (alarms + Counter((o.code, o.reason) for o in outcomes if not o.ok)).items():
        print(f"{count:6d}  {what}")
    return {
        "false_ejections": float(alarms["worker.ejected"]),
        "false_alarms": float(alarms.total()),
        "full_load_failed": float(sum(not outcome.ok for outcome in outcomes)),
        "full_load_s": seconds,
        "full_load_pictures_per_s": sum(len(outcome.images_at) for outcome in outcomes) / seconds,
    }


def _alarms(stack: RouterStack) -> Iterator[str]:
    for line in stack.log("router").read_text().splitlines():
        event = json.loads(line).get("event") if line.startswith("{") else None
        if event in FALSE_ALARMS:
            yield event
