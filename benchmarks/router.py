"""The router under load, in real processes: what it costs, whom it turns away, what it survives: ``--json`` keeps it.

python -m benchmarks.router --json FILE [--only hop,overload,...] [--minutes N]

Store, registry, router and workers are processes of this machine, reached over gRPC on loopback; but where it says
otherwise, workers have the timed engine, which takes the time of the real one and no core. Each part starts its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks.report import Bars, report
from benchmarks.router_calm import ejections
from benchmarks.router_hop import hop, stalled_reader
from benchmarks.router_outage import outage
from benchmarks.router_overload import fairness, overload
from benchmarks.router_portions import sixteen
from benchmarks.router_scaling import scaling

#: What must hold, and which way.
BARS: Bars = {
    "hop_first_byte_ms": ("<=", 2),
    "hop_image_ms": ("<=", 4),
    "stalled_router_mib": ("<=", 4),
    "stalled_worker_mib": ("<=", 4),
    "stalled_others_failed": ("<=", 0),
    "overload_busy_share": (">=", 0.95),
    "overload_refusals_untold": ("<=", 0),
    "overload_refusal_p99_ms": ("<=", 100),
    "overload_refusal_max_ms": ("<=", 100),
    "overload_late_share": ("<=", 0.01),
    "overload_failed": ("<=", 0),
    "fair_others_p95_vs_calm": ("<=", 1.1),
    "fair_others_failed": ("<=", 0),
    "sixteen_share": ("<=", 0.35),
    "sixteen_delay_batches": ("<=", 1),
    "false_ejections": ("<=", 0),
    "false_alarms": ("<=", 0),
    "full_load_failed": ("<=", 0),
    "outage_failed": ("<=", 0),
    "outage_stale_unsaid": ("<=", 0),
    "outage_refusals_untold": ("<=", 0),
    "outage_after_failed": ("<=", 0),
    "scaler_growth_seen_s": ("<=", 2),
    "scaling_failed": ("<=", 0),
    "scaling_untold": ("<=", 0),
}

PARTS: dict[str, Callable[[Path], Awaitable[dict[str, float]]]] = {
    "hop": hop,
    "stalled_reader": stalled_reader,
    "overload": overload,
    "fairness": fairness,
    "sixteen": sixteen,
    "scaling": scaling,
}
#: What takes as long as it is told.
LONG = {"ejections": ejections, "outage": outage}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--only", default=",".join([*PARTS, *LONG]), help="parts, separated by commas; all: %(default)s"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of ejections and of outage; %(default)g")
    arguments = parser.parse_args()
    seconds = 60.0 * arguments.minutes
    parts = PARTS | {name: partial(part, seconds=seconds) for name, part in LONG.items()}
    figures: dict[str, float] = {}
    for part in arguments.only.split(","):
        with tempfile.TemporaryDirectory(prefix="router-") as folder:
            figures |= await parts[part](Path(folder))
        figures[f"{part}_load_average"] = os.getloadavg()[0]  # how busy the machine was, others included
    sys.exit(not report(figures, BARS, file=arguments.json))


if __name__ == "__main__":
    asyncio.run(main())
