"""Races, answers and tidings of registry replicas on a real store: ``--json`` keeps the figures.

python -m benchmarks.registry --json FILE [--only races,crashes,...]

SeaweedFS, two registries on it and two behind a network that loses answers: processes of this machine, reached over
gRPC on loopback. Crashes and starts have a store and processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import structlog
from tqdm import tqdm

from benchmarks.crash_points import crashes
from benchmarks.end_to_end import flips, publish_to_picture
from benchmarks.garbage import garbage
from benchmarks.lost_answers import BRAND, LostAnswers, header, small_file
from benchmarks.report import Bars, report
from benchmarks.restart import restart
from benchmarks.unreliable_proxy import Mischief, unreliable_proxy
from benchmarks.uploads import uploads
from looksmith.cli.processes import Processes
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, STORE_READY, free_run, is_serving
from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Brand
from services.registry.client import RegistryClient
from services.registry.settings import RegistrySettings
from services.registry.watch import Changed, SnapshotEnd

PUBLISHERS, ADAPTERS, ADAPTERS_AT_ONCE = 16, 200, 8
STEADY = 2  # replicas whose way to the store is reliable
RESOLVES_PER_S, RESOLVE_S = 1000, 10
WATCHERS, FLIPS = 200, 50

#: What must hold, and which way.
BARS: Bars = {
    "race_wrong": ("<=", 0),
    "lost_ack_wrong": ("<=", 0),
    "lost_ack_unknown_share": ("<=", 0.005),
    "resolve_p99_ms": ("<=", 5),
    "watch_same_p99_ms": ("<=", 100),
    "watch_across_p99_ms": ("<=", 1000),
    "crash_wrong": ("<=", 0),
    "gc_missing": ("<=", 0),
    "gc_faults": ("<=", 0),
    "gc_reclaimed_share": (">=", 0.99),
    "restart_s": ("<=", 3),
    "restart_serving_s": ("<=", 3),
    "flip_wrong": ("<=", 0),
    "publish_to_picture_s": ("<=", 2),
    "upload_vs_raw": (">=", 0.6),
    "upload_memory_mib": ("<=", 64),
    "upload_resent_parts": ("<=", 1),
}


@dataclass(frozen=True)
class Registries:
    """Replicas on one store, each behind a channel."""

    first: RegistryClient
    second: RegistryClient
    unreliable: tuple[RegistryClient, ...]  # their way to the store is
    mischief: Mischief

    @property
    def both(self) -> tuple[RegistryClient, RegistryClient]:
        return self.first, self.second


@asynccontextmanager
async def registries(folder: Path) -> AsyncIterator[Registries]:
    base = free_run(6)
    proxy, mischief = base + 5, Mischief()
    keys = {"ACCESS_KEY": "looksmith", "SECRET_KEY": "looksmith-local"}
    async with AsyncExitStack() as stack:
        environ = {"PYTHONUNBUFFERED": "1", "PATH": "/usr/bin:/bin"}
        processes = await stack.enter_async_context(
            Processes(folder / "logs", cwd=CHECKOUT, environ=environ, stop_within_s=20)
        )
        await processes.start(
            "store",
            [sys.executable, "-m", "services.registry.seaweedfs", f"--folder={folder / 'store'}", f"--port={base}"]
            + [f"--{key.lower().replace('_', '-')}={value}" for key, value in keys.items()],
        )

        async def store_is_ready() -> bool:
            return STORE_READY in await asyncio.to_thread(processes.log("store").read_text, errors="replace")

        await processes.until("store", store_is_ready, within_s=READY_WITHIN_S)
        await stack.enter_async_context(unreliable_proxy(proxy, base, mischief))
        clients = []
        for replica in (1, 2, 3, 4):
            name, port = f"registry-{replica}", base + replica
            await processes.start(
                name,
                [sys.executable, "-m", "services.registry"],
                REGISTRY_PORT=port,
                REGISTRY_NAME=name,
                REGISTRY_STORE_ENDPOINT=f"127.0.0.1:{base if replica <= STEADY else proxy}",
                **{f"REGISTRY_STORE_{key}": value for key, value in keys.items()},
            )
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            await processes.until(name, partial(is_serving, channel), within_s=READY_WITHIN_S)
            clients.append(RegistryClient(channel))
        running = Registries(clients[0], clients[1], tuple(clients[STEADY:]), mischief)
        await running.first.put_brand(Brand(BRAND))
        yield running


async def races(running: Registries) -> dict[str, float]:
    """Sixteen publishers of each adapter at once, on both replicas; what a fresh look at the log finds wrong."""
    wrong: Counter[str] = Counter()
    took: list[float] = []
    turns = asyncio.Semaphore(ADAPTERS_AT_ONCE)
    progress = tqdm(total=ADAPTERS, desc=f"adapters with {PUBLISHERS} publishers each")

    async def publisher(number: int, adapter: str, seed: int) -> tuple[int, str] | None:
        data = await asyncio.to_thread(small_file, seed)
        began = time.perf_counter()
        try:
            published = await running.both[number % 2].publish(header(data, adapter), [data], deadline_s=120)
        except LooksmithError as error:
            wrong[f"shown to a publisher: {error.reason}"] += 1
            return None
        took.append(time.perf_counter() - began)
        return published.version.version, published.version.digest

    async def race(index: int) -> list[tuple[int, str] | None]:
        async with turns:
            numbers = range(PUBLISHERS)
            answers = await asyncio.gather(*(publisher(n, f"style-{index}", index * PUBLISHERS + n) for n in numbers))
        progress.update()
        return list(answers)

    began = time.perf_counter()
    answers = await asyncio.gather(*map(race, range(ADAPTERS)))
    seconds = time.perf_counter() - began
    progress.close()
    await asyncio.sleep(2 * RegistrySettings.model_fields["head_max_age_s"].default)  # replicas may be so far behind
    descending = list(range(PUBLISHERS, 0, -1))
    for index, told in enumerate(tqdm(answers, desc="logs looked at")):
        for replica in running.both:
            page = await replica.list_versions(BRAND, f"style-{index}", page_size=1000)
            listed = {version.version: version.digest for version in page.items}
            history = (await replica.history(BRAND, f"style-{index}", page_size=1000)).items
            wrong["numbers"] += list(listed) != descending
            wrong["the same file twice"] += len(set(listed.values())) != len(listed)
            wrong["answers"] += sum(answer is not None and listed.get(answer[0]) != answer[1] for answer in told)
            wrong["history"] += [event.seq for event in history] != descending
            wrong["order"] += [event.version for event in history] != descending
    for what, count in wrong.items():
        if count:
            print(f"wrong: {what}: {count}")
    return {
        "race_wrong": float(sum(wrong.values())),
        "race_publishes": float(PUBLISHERS * ADAPTERS),
        "race_publishes_per_s": PUBLISHERS * ADAPTERS / seconds,
        "race_publish_p50_ms": statistics.median(took) * 1e3,
    }


async def resolve(running: Registries) -> dict[str, float]:
    """Milliseconds of a resolve by alias at a fixed rate, whatever the ones before are doing."""
    data = small_file(-1 % 2**32)
    await running.first.publish(header(data, "resolved"), [data])
    ref, took = AdapterRef(BRAND, "resolved"), list[float]()

    async def one() -> None:
        began = time.perf_counter()
        await running.first.resolve(ref)
        took.append(time.perf_counter() - began)

    await one()
    tasks, start = [], time.perf_counter()
    for number in tqdm(range(RESOLVES_PER_S * RESOLVE_S), desc=f"{RESOLVES_PER_S} resolves a second"):
        wait = start + number / RESOLVES_PER_S - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return {
        "resolve_p50_ms": _percentile(took, 50),
        "resolve_p99_ms": _percentile(took, 99),
        "resolve_per_s": len(took) / (time.perf_counter() - start),
    }


async def watch(running: Registries) -> dict[str, float]:
    """Milliseconds from the answer to an alias's move until each of many watchers has heard of it."""
    for note in (1, 2):
        data = small_file(1_000_000 + note)
        await running.first.publish(header(data, "watched"), [data])
    return {
        "watch_same_p99_ms": await _watched(running.first, running.first, "watchers of the same replica"),
        "watch_across_p99_ms": await _watched(running.first, running.second, "watchers of the other replica"),
        "watchers": float(WATCHERS),
    }


async def _watched(writer: RegistryClient, watched: RegistryClient, what: str) -> float:
    heard: dict[int, list[float]] = {}
    ready = 0

    async def watcher() -> None:
        nonlocal ready
        async for message in watched.watch(BRAND):
            ready += isinstance(message, SnapshotEnd)
            if isinstance(message, Changed) and message.adapter.name == "watched":
                heard.setdefault(message.adapter.seq, []).append(time.perf_counter())

    watching = [asyncio.create_task(watcher()) for _ in range(WATCHERS)]
    try:
        while ready < WATCHERS:  # noqa: ASYNC110  # each counts once its snapshot has come
            await asyncio.sleep(0.05)
        moved: dict[int, float] = {}
        for flip in tqdm(range(FLIPS), desc=what):
            move = await writer.promote(AdapterRef(BRAND, "watched", flip % 2 + 1))
            moved.setdefault(move.seq, time.perf_counter())
            await asyncio.sleep(1.0)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    late = [seq for seq in moved if len(heard.get(seq, ())) < WATCHERS]
    if len(late) > 1:  # the first move may find the alias where it is
        raise RuntimeError(f"{len(late)} of {len(moved)} moves were not heard of by all {WATCHERS} watchers")
    return _percentile([at - moved[seq] for seq in moved for at in heard.get(seq, ())], 99)


def _percentile(took: Sequence[float], percent: float) -> float:
    return float(np.percentile(np.asarray(took), percent)) * 1e3


PARTS: dict[str, Callable[[Registries], Awaitable[dict[str, float]]]] = {
    "races": races,
    "lost": lambda running: LostAnswers(running.first, running.unreliable, running.mischief).run(),
    "resolve": resolve,
    "watch": watch,
}
#: What wants a folder and nothing else.
ALONE: dict[str, Callable[[Path], Awaitable[dict[str, float]]]] = {
    "crashes": crashes,
    "garbage": garbage,
    "restart": restart,
    "flips": flips,
    "publish_to_picture": publish_to_picture,
    "uploads": uploads,
}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parts = ",".join([*PARTS, *ALONE])
    parser.add_argument("--only", default=parts, help="parts, separated by commas; all: %(default)s")
    arguments = parser.parse_args()
    # Registries in this process would tell of every publication.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures: dict[str, float] = {}
    wanted = arguments.only.split(",")
    if together := [part for part in wanted if part not in ALONE]:
        with tempfile.TemporaryDirectory(prefix="registry-") as folder:
            async with registries(Path(folder)) as running:
                for part in together:
                    figures |= await PARTS[part](running)
    for part in [part for part in wanted if part in ALONE]:
        with tempfile.TemporaryDirectory(prefix="registry-") as folder:
            figures |= await ALONE[part](Path(folder))
    sys.exit(not report(figures, BARS, file=arguments.json))


if __name__ == "__main__":
    asyncio.run(main())
