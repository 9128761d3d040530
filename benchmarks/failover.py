"""Workers and routers that are killed, stopped, hung or restarted under callers: ``--json`` keeps the figures.

python -m benchmarks.failover --json FILE [--only kills,routers,...]

Store, registry, routers and workers are processes of this machine, on loopback. With the timed engine but for "exact".
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from benchmarks.lost_routers import routers
from benchmarks.lost_workers import exact, hangs, kills, stops
from benchmarks.report import Bars, report
from benchmarks.rolling import rolling

#: What must hold, and which way.
BARS: Bars = {
    "failover_redispatch_p50_ms": ("<=", 150),
    "exact_redispatch_p50_ms": ("<=", 150),
    "stop_goes_on_p50_s": ("<=", 2.5),
    "stop_goes_on_max_s": ("<=", 2.5),
    **{
        f"{part}_{wrong}": ("<=", 0)
        for part in ("failover", "exact", "stop", "hang", "router", "rolling")
        for wrong in ("errors", "duplicates", "missing", "gaps", "other_bytes", "lost_by_mistake")
    },
}

PARTS: dict[str, Callable[[Path], Awaitable[dict[str, float]]]] = {
    "kills": kills,
    "exact": exact,
    "stops": stops,
    "hangs": hangs,
    "routers": routers,
    "rolling": rolling,
}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="keep data and logs here; else they are deleted")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas; all: %(default)s")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures: dict[str, float] = {}
    for part in arguments.only.split(","):
        with tempfile.TemporaryDirectory(prefix="failover-") as temporary:
            folder = arguments.folder / part if arguments.folder else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            figures |= await PARTS[part](folder)
    sys.exit(not report(figures, BARS, file=arguments.json))


if __name__ == "__main__":
    asyncio.run(main())
