"""Fuzzes every parser that takes bytes or text from strangers: ``--json`` keeps the figures.

python -m benchmarks.fuzzing [--json FILE] [--count 500000] [--only texts,calls/BrandService.PutBrand] [--seed N]

What inputs have led to is kept below build/fuzzing, and gone on from next time: several runs with a smaller --count
and other seeds do what one does. A finding's input is kept there too; --reproduce FILE --only TARGET tries it again.
Before all that, each planted fault has to be found; --plant does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.fuzzing.groups import GROUPS, target_named, targets_of
from benchmarks.fuzzing.overseer import CHECKOUT, Told, fuzz, keep
from benchmarks.fuzzing.plants import PLANTS
from benchmarks.fuzzing.target import Target
from benchmarks.fuzzing.trial import DEADLINE_S, MOST_BYTES, Trials
from benchmarks.report import Bars, report

COUNT = 500_000
#: Inputs within which a planted fault has to be found.
PLANTED_WITHIN = 50_000
FOLDER = CHECKOUT / "build" / "fuzzing"


def bars(count: int) -> Bars:
    return {
        "inputs": (">=", count),
        "findings": ("<=", 0),
        "planted_missed": ("<=", 0),
        "slowest_ms": ("<=", DEADLINE_S * 1000),
        "memory_mib": ("<=", MOST_BYTES / 2**20),
    }


async def planted(names: Sequence[str], *, within: int, seed: int, turns: asyncio.Semaphore) -> list[str]:
    """Those faults that are not found within so many inputs, each looked for afresh."""

    async def missed(name: str) -> bool:
        plant = PLANTS[name]
        async with turns:
            with tempfile.TemporaryDirectory(prefix="planted-") as folder:
                told = await fuzz(
                    plant.target, count=within, seed=seed, folder=Path(folder), plant=name, until=plant.shows
                )
        found = any(what.startswith(plant.shows) for what in told.findings)
        tqdm.write(f"planted {name}: {'found' if found else 'MISSED'} within {told.inputs} inputs")
        return not found

    results = await asyncio.gather(*map(missed, names))
    return [name for name, was_missed in zip(names, results, strict=True) if was_missed]


async def run(
    targets: Sequence[Target], *, count: int, seed: int, folder: Path, turns: asyncio.Semaphore
) -> list[Told]:
    """Shares so many inputs out among targets, by their shares."""
    shares = sum(target.share for target in targets)
    with tqdm(total=count, desc="inputs", unit="", unit_scale=True, disable=None) as progress:

        def progressed(inputs: int) -> None:
            progress.update(inputs)

        async def one(target: Target) -> Told:
            async with turns:
                progress.set_postfix_str(target.name)
                own = -(-round(count * target.share) // round(shares))
                told = await fuzz(target.name, count=own, seed=seed, folder=folder, on_progress=progressed)
                for finding in told.findings.values():
                    tqdm.write(f"FOUND {target.name}: {finding.what}: {keep(finding, folder / 'findings')}")
                return told

        return list(await asyncio.gather(*map(one, targets)))


def figures(told: Sequence[Told]) -> dict[str, float]:
    return {
        "targets": float(len(told)),
        "inputs": float(sum(each.inputs for each in told)),
        "findings": float(sum(len(each.findings) for each in told)),
        "slowest_ms": max(each.slowest_s for each in told) * 1000,
        "memory_mib": max(each.largest_bytes for each in told) / 2**20,
    }


def _wanted(only: str) -> list[Target]:
    targets = {name: target for group in GROUPS for name, target in targets_of(group).items()}
    if not only:
        return list(targets.values())
    parts = only.split(",")
    return [
        target for name, target in targets.items() if any(name == part or name.startswith(f"{part}/") for part in parts)
    ]


def _reproduce(file: Path, target: str) -> bool:
    finding = Trials(target_named(target)).run(file.read_bytes())
    print(f"{finding.what}\n{finding.told}" if finding else "it is refused, or read, as it should be")
    return finding is None


async def _all(asked: argparse.Namespace, targets: Sequence[Target]) -> bool:
    turns = asyncio.Semaphore(asked.at_once)
    missed = await planted(list(PLANTS), within=PLANTED_WITHIN, seed=asked.seed, turns=turns)
    if asked.plant:
        return not missed
    shutil.rmtree(FOLDER / "findings", ignore_errors=True)
    told = await run(targets, count=asked.count, seed=asked.seed, folder=FOLDER, turns=turns)
    measured = {**figures(told), "planted": float(len(PLANTS)), "planted_missed": float(len(missed))}
    return report(measured, bars(asked.count), file=asked.json, seed=asked.seed)


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--count", type=int, default=COUNT, help="inputs, all targets together")
    parser.add_argument("--seed", type=int, default=1, help="another one makes other inputs")
    parser.add_argument("--only", default="", help="targets or groups of them, separated by commas")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--plant", action="store_true", help="only look for planted faults")
    parser.add_argument("--reproduce", type=Path, help="try the input in this file on the target of --only")
    asked = parser.parse_args()
    if asked.reproduce:
        return _reproduce(asked.reproduce, asked.only)
    targets = [] if asked.plant else _wanted(asked.only)  # before there is an event loop: some have one of their own
    return asyncio.run(_all(asked, targets))


if __name__ == "__main__":
    sys.exit(not main())
