"""Besieges a registry, a router and a worker with hostile streams: ``--json`` keeps the figures.

python -m benchmarks.hostile_streams [--json FILE] [--count 20000] [--seed N]. Several runs with a smaller --count and
other seeds do what one does, but for what grows slowly.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.hostile_streams.doors import doors
from benchmarks.hostile_streams.siege import BARS, siege
from benchmarks.observed_stack import observed_stack
from benchmarks.report import report

COUNT = 20_000
#: Pictures take their time, and none of torch's. With a default recipe, as everywhere where more than one may be
#: served: an absurd worker's would leave the bystander's choice open.
SETTINGS = {"WORKER_ENGINE": "timed", "ROUTER_DEFAULT_RECIPE": "studio"}


async def run(count: int, seed: int, folder: Path) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(observed_stack(folder, workers=1, settings=SETTINGS))
        registry, router, worker = (each.process for each in running.all)
        attacked = doors(registry=registry.address, router=router.address, worker=worker.address)
        figures, noted, bystander = await siege(
            await stack.enter_async_context(attacked), running.all, streams=count, seed=seed
        )
    processes = [each.process for each in running.all]
    internal = [(p.name, said["method"]) for p in processes for said in p.said("call.failed")]
    for name, streams in noted.streams.most_common():
        print(f"{streams:8d}  {name}")
    for what, times in Counter([*noted.hung, *noted.unreachable, *bystander.noted.failures]).most_common(20):
        print(f"{times} x {what}")
    for what, times in noted.left.items():
        print(f"{times} x left of {what}")
    for (name, method), times in Counter(internal).most_common():
        print(f"{times} x internal error of {name} at {method}")
    return {**figures, "internal_errors": float(len(internal))}


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--count", type=int, default=COUNT, help="streams")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other streams")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-streams-") as folder:
        figures = asyncio.run(run(asked.count, asked.seed, Path(folder)))
    bars = {**BARS, "streams": (">=", asked.count), "internal_errors": ("<=", 0)}
    return report(figures, bars, file=asked.json, seed=asked.seed)


if __name__ == "__main__":
    sys.exit(not main())
