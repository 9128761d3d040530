"""Runs the talk's test: starts a system, learns what it can do undisturbed, then loads it and kills parts of it.

python -m benchmarks.loadtest [--chaos] [--seconds 1200] [--json FILE] [--plot FILE]. With --routers it loads a system
that runs elsewhere, and does nothing to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from tqdm import tqdm

from benchmarks.brands import publish_brands, write_brands
from benchmarks.loadtest import chaos, verdict
from benchmarks.loadtest.chart import save
from benchmarks.loadtest.cluster import Cluster, Happening, cluster, ready_workers
from benchmarks.loadtest.users import Users
from benchmarks.loadtest.verdict import BARS, Window
from benchmarks.references import look_alikes, references
from benchmarks.report import machine, report
from looksmith.cli.calls import to_registry
from looksmith.cli.stack import CHECKOUT

#: Of each number of workers that is scheduled, undisturbed: seconds in a full run, and at least in a short one.
CAPACITY_S, CAPACITY_AT_LEAST_S = 60.0, 8.0
#: Before each of them, for caches to fill.
SETTLES_S = 3.0
_LOOK_EVERY_S = 1.0
#: Where the logs of a run go that fell short.
LOGS = CHECKOUT / "build/loadtest-logs"


@dataclass
class Diary:
    """What happened when, by ``time.monotonic``."""

    happenings: list[Happening] = field(default_factory=list)
    ready: list[tuple[float, int]] = field(default_factory=list)

    def tell(self, happening: Happening) -> None:
        self.happenings.append(happening)


async def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole test; the report, without what machine it ran on."""
    files = write_brands(asked.brands, folder / "brands", seed=asked.seed)
    painted = references(files)
    if alike := look_alikes(painted):
        raise RuntimeError(f"these brands can't be told apart by their pictures: {alike[:5]}")
    diary = Diary()
    if asked.routers:
        routers = tuple(asked.routers.split(","))
        digests = await _publish(asked.registry, files)
        users = _users(asked, routers, digests)
        window = await _load(users, asked.seconds, diary, routers)
        capacity: dict[int, float] = {}
        acts: tuple[chaos.Act, ...] = ()
    else:
        acts = chaos.plan(asked.seconds, seed=asked.seed) if asked.chaos else ()
        async with cluster(folder, tell=diary.tell) as running:
            digests = await _publish(running.registry, files)
            users = _users(asked, running.routers, digests)
            capacity = await _capacity(running, users, asked.seconds) if asked.capacity else {}
            await running.scale(chaos.SCALE[0][1])
            await running.ready(chaos.SCALE[0][1])
            users.requests.clear()
            diary.happenings.clear()
            async with _disturbing(running, acts):
                window = await _load(users, asked.seconds, diary, running.routers)
    figures = {
        **verdict.figures(users.requests, window, digests),
        **verdict.look(users.requests, users.pictures, painted),
    }
    if capacity:
        possible = sum(capacity[n] * s for n, s in chaos.scheduled(asked.seconds, acts=acts).items())
        figures["goodput_vs_capacity"] = len(verdict.delivered(users.requests, window)) / possible
    return {
        "seconds": window.seconds,
        "users": asked.users,
        "brands": asked.brands,
        "seed": asked.seed,
        "figures": figures,
        "capacity_per_s": capacity,
        "tiers": verdict.tiers(users.requests),
        "chaos": dict(Counter(f"{act.kind} {act.who.partition('-')[0]}" for act in acts)),
        "workers": dict(Counter(r.worker for r in users.requests if r.worker).most_common()),
        "errors": dict(Counter(r.error for r in users.requests if r.error).most_common(20)),
        "happenings": [(round(h.at - window.began, 2), h.what) for h in diary.happenings if h.at <= window.ended],
        "ready": [(round(at - window.began, 1), count) for at, count in diary.ready],
        "timeline": {
            "well": [round(r.ended - window.began, 2) for r in users.requests if not r.error],
            "took": [round(r.took_s, 3) for r in users.requests if not r.error],
            "failed": [round(r.ended - window.began, 2) for r in users.requests if r.error],
        },
    }


def _users(asked: argparse.Namespace, routers: tuple[str, ...], digests: Mapping[str, str]) -> Users:
    return Users(asked.users, routers, list(digests), timeout_s=asked.timeout, seed=asked.seed)


async def _publish(registry: str, files: list[Path]) -> dict[str, str]:
    async with to_registry(registry) as channel:
        return await publish_brands(channel, files)


async def _capacity(running: Cluster, users: Users, seconds: float) -> dict[int, float]:
    """Pictures a second of each number of workers that the run schedules, with what adapters they keep warm."""
    measured_s = max(CAPACITY_AT_LEAST_S, min(CAPACITY_S, CAPACITY_S * seconds / chaos.FULL_S))
    found: dict[int, float] = {}
    for count in sorted({count for _, count in chaos.SCALE}):
        await running.scale(count)
        await running.ready(count)
        await users.every_brand()
        async with users.asking():
            await asyncio.sleep(SETTLES_S)
            began, before = time.monotonic(), len(users.requests)
            for _ in tqdm(range(round(measured_s)), desc=f"capacity of {count}", unit="s", disable=None):
                await asyncio.sleep(1.0)
            window = Window(began, time.monotonic())
        well = verdict.delivered(users.requests[before:], window)
        found[count] = len(well) / window.seconds
    return found


async def _load(users: Users, seconds: float, diary: Diary, routers: Sequence[str]) -> Window:
    """Users ask for so long; shows every second how they fare."""
    began = time.monotonic()
    async with users.asking():
        with tqdm(total=round(seconds), desc="load", unit="s", disable=None) as progress:
            while (now := time.monotonic() - began) < seconds:
                await asyncio.sleep(min(_LOOK_EVERY_S, seconds - now))
                ready = max(await asyncio.gather(*map(ready_workers, routers)))
                diary.ready.append((time.monotonic(), ready))
                lately = [r for r in users.requests[-500:] if r.ended > time.monotonic() - 5]
                failed = sum(bool(r.error) for r in users.requests)
                progress.set_postfix_str(
                    f"{len(lately) / 5:.1f} pictures/s, {failed} of {len(users.requests)} failed, {ready} workers"
                    + (f"; {diary.happenings[-1].what}" if diary.happenings else "")
                )
                progress.update(round(time.monotonic() - began) - progress.n)
        return Window(began, time.monotonic())


@asynccontextmanager
async def _disturbing(running: Cluster, acts: tuple[chaos.Act, ...]) -> AsyncIterator[None]:
    """Does each act when its time has come, those that are still to come at the end excepted."""
    began = time.monotonic()

    async def one(act: chaos.Act) -> None:
        await asyncio.sleep(max(0.0, began + act.at_s - time.monotonic()))
        await running.do(act)

    tasks = [asyncio.create_task(one(act)) for act in acts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10, help="who each ask for one picture after another")
    parser.add_argument("--brands", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=chaos.FULL_S)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds after which a request has failed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-capacity", dest="capacity", action="store_false", help="leave out what is undisturbed")
    parser.add_argument("--chaos", action="store_true", help="kill, stop and scale parts of the system meanwhile")
    parser.add_argument("--routers", default="", help="of a system that runs elsewhere: HOST:PORT,...")
    parser.add_argument("--registry", default="", help="of that system; it gets the brands")
    parser.add_argument("--json", type=Path, help="keep the report here")
    parser.add_argument("--plot", type=Path, help="draw it here, as .svg or .png")
    asked = parser.parse_args()
    if bool(asked.routers) != bool(asked.registry):
        parser.error("--routers and --registry name one system: give both, or neither")
    if asked.routers and asked.chaos:
        parser.error("--chaos strikes processes of this machine; a system that runs elsewhere is left alone")
    return asked


def main() -> None:
    asked = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="looksmith-loadtest-") as made:
        held = False
        try:
            told = asyncio.run(run(asked, Path(made)))
            bars = {name: bar for name, bar in BARS.items() if name in told["figures"]}
            held = report(told["figures"], bars, file=None)
        finally:
            if not held and (logs := Path(made) / "logs").is_dir():
                shutil.copytree(logs, LOGS, dirs_exist_ok=True)
                print(f"what every process said is in {LOGS}")
    print("adapters were found:", ", ".join(f"{tier} {share:.1%}" for tier, share in told["tiers"].items()))
    if told["chaos"]:
        print("meanwhile:", ", ".join(f"{count} x {what}" for what, count in told["chaos"].items()))
    for error, count in told["errors"].items():
        print(f"{count} x {error}")
    told = {"machine": machine(), **told}
    if asked.json:
        asked.json.write_text(json.dumps(told) + "\n")
    if asked.plot:
        save(told, asked.plot)
    sys.exit(not held)


if __name__ == "__main__":
    main()
