"""Soaks a store, a registry, a router and workers in requests: ``--json`` keeps the figures, ``--plot`` draws memory.

python -m benchmarks.soak [--requests 10000] [--json FILE] [--plot FILE]. Real processes with the model that ships; its
bank has slots for a part of the brands only, so that adapters come and go all the time. What counts as memory is
private and written: Private_Dirty of smaps_rollup.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from benchmarks.brands import publish_brands, write_brands
from benchmarks.observed_stack import ObservedStack, observed_stack
from benchmarks.report import machine, report
from benchmarks.soak.chart import save
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.load import Load
from benchmarks.soak.verdict import BARS, figures

REQUESTS, BRANDS, WORKERS = 10_000, 60, 2
#: So many parts, with a rest after each: what grows shows when, and not only that.
PARTS = 4
#: Fewer slots than brands, and too little memory for all that is compiled: adapters go out to the disk and come back.
SETTINGS = {"WORKER_ENGINE": "bank", "WORKER_SLOTS": "32:12,128:8", "WORKER_HOST_BYTES": str(48 << 20)}


async def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    files = write_brands(asked.brands, folder / "brands", seed=asked.seed)
    async with observed_stack(folder, workers=asked.workers, settings=SETTINGS) as stack:
        async with grpc.aio.insecure_channel(stack.registry.process.address) as channel:
            await publish_brands(channel, files)
        load = Load(
            registry=stack.registry.process.address,
            router=stack.router.process.address,
            files={file.stem: file.read_bytes() for file in files},
            seed=asked.seed,
        )
        began = time.monotonic()
        ledger = await _soaked(stack, load, asked.requests)
        seconds = time.monotonic() - began
        internal = sum(len(each.process.said("call.failed")) for each in stack.all)
    return {
        "figures": {
            "requests": float(load.done.total()),
            "failures": float(load.failures.total()),
            "internal_errors": float(internal),
            "requests_per_s": load.done.total() / seconds,
            **figures(ledger.rests, ledger.uploads),
        },
        "requests": load.done.total(),
        "kinds": dict(load.done),
        "failures": dict(load.failures.most_common(20)),
        "rests": [{name: asdict(rest) for name, rest in rests.items()} for rests in ledger.rests],
        "memory": ledger.memory,
    }


async def _soaked(stack: ObservedStack, load: Load, requests: int) -> Ledger:
    ledger = Ledger()
    with tqdm(total=requests, desc="requests", disable=None) as progress:

        def done() -> None:
            progress.update()
            progress.set_postfix_str(f"{load.failures.total()} failed")

        async with ledger.kept(stack, load.done.total):
            for part in range(PARTS):
                await load.run(requests * (part + 1) // PARTS - requests * part // PARTS, done)
                await ledger.rest(stack)
    return ledger


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--brands", type=int, default=BRANDS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw memory over requests here, as .svg or .png")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        told = asyncio.run(run(asked, Path(folder)))
    bars = {**BARS, "requests": (">=", asked.requests), "internal_errors": ("<=", 0)}
    held = report(told["figures"], bars, file=None)
    for what, times in told["failures"].items():
        print(f"{times} x {what}")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), **told}) + "\n")
    if asked.plot:
        save(told, asked.plot)
    return held


if __name__ == "__main__":
    sys.exit(not main())
