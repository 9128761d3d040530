"""Collections all the time beside publications, half of which bring bytes that lie there to be collected.

Two replicas as processes, real SeaweedFS; what is missing or left in the end is said by a check of every file.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.lost_answers import BRAND, header, small_file
from benchmarks.replicas import environ_of, killed, serves
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, free_run
from looksmith.nouns import Brand
from services.registry import layout
from services.registry.client import RegistryClient, measured
from services.registry.compose import WRITES
from services.registry.fsck import Fault, FaultKind, Summary
from services.registry.object_store import ObjectStore
from services.registry.seaweedfs import RunningStore, seaweedfs

PUBLISHES, ADAPTERS, AT_ONCE = 2000, 25, 8
#: Lost files beside those that are published again.
ORPHANS = 500
#: Seconds: short, so that what is lost at the start becomes old while publications go on.
TIMES = {"GC_GRACE_S": "20", "COMMIT_WINDOW_S": "5", "UPLOAD_EXPIRY_S": "5"}
_SEEDS = 7_000_000  # apart from those of other parts
_WRITES_AT_ONCE = 16


async def garbage(folder: Path) -> dict[str, float]:
    """Files of versions that are missing in the end, and the share of bytes of no version that is gone."""
    async with seaweedfs(folder / "store") as store, store.client() as objects, _replicas(store, folder) as replicas:
        await replicas[0].put_brand(Brand(BRAND))
        lost = await _lose(objects)
        # They become old between the first publication and the last.
        await asyncio.sleep(float(TIMES["GC_GRACE_S"]) / 2)
        done = asyncio.Event()
        collecting = [asyncio.create_task(_collect(registry, done)) for registry in replicas]
        began = time.perf_counter()
        await _publish(replicas)
        seconds = time.perf_counter() - began
        done.set()
        runs = await asyncio.gather(*collecting)
        await asyncio.sleep(float(TIMES["GC_GRACE_S"]) + 2)
        await replicas[0].collect_garbage()
        found = [message async for message in replicas[1].check_store(read_files=True)]
    faults = Counter(message.kind for message in found if isinstance(message, Fault))
    for kind, count in faults.items():
        print(f"wrong: {kind}: {count}")
    summary = next(message for message in found if isinstance(message, Summary))
    return {
        "gc_missing": float(faults[FaultKind.FILE_MISSING]),
        "gc_faults": float(faults.total()),
        "gc_reclaimed_share": 1 - summary.unreferenced_bytes / lost,
        "gc_publishes": float(summary.versions),
        "gc_orphans": float(ORPHANS + PUBLISHES // 2),
        "gc_collections": float(sum(map(len, runs))),
        "gc_deleted_while_publishing": float(sum(map(sum, runs))),
        "gc_publishes_per_s": PUBLISHES / seconds,
    }


def _seed(number: int) -> int:
    return _SEEDS + number


async def _lose(objects: ObjectStore) -> int:
    """Puts the files of half of the publications to come, and others, where dead publications would leave them."""
    turns = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def lose(number: int) -> int:
        async with turns:
            data = await asyncio.to_thread(small_file, _seed(number))
            digest, size = measured([data])
            await objects.put(layout.blob(BRAND, digest, uuid.uuid4().hex), data)
            return size

    numbers = [*range(0, PUBLISHES, 2), *range(PUBLISHES, PUBLISHES + ORPHANS)]
    return sum(await asyncio.gather(*map(lose, numbers)))


async def _publish(replicas: list[RegistryClient]) -> None:
    turns, progress = asyncio.Semaphore(AT_ONCE), tqdm(total=PUBLISHES, desc="published")

    async def publish(number: int) -> None:
        async with turns:
            data = await asyncio.to_thread(small_file, _seed(number))
            await replicas[number % 2].publish(header(data, f"style-{number % ADAPTERS}"), [data])
        progress.update()

    await asyncio.gather(*map(publish, range(PUBLISHES)))
    progress.close()


async def _collect(registry: RegistryClient, done: asyncio.Event) -> list[int]:
    """Objects that each run deleted."""
    deleted = []
    while not done.is_set():
        deleted.append((await registry.collect_garbage()).deleted_objects)
    return deleted


@asynccontextmanager
async def _replicas(store: RunningStore, folder: Path) -> AsyncIterator[list[RegistryClient]]:
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(2):
            port = free_run(1)
            output = stack.enter_context((folder / f"registry-{number}.log").open("wb"))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.registry",
                cwd=CHECKOUT,
                env=environ_of(store, PORT=str(port), **TIMES),
                stdout=output,
                stderr=output,
            )
            stack.push_async_callback(killed, process)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            await channel.channel_ready()
            async with asyncio.timeout(READY_WITHIN_S):
                while not await serves(channel, WRITES):  # noqa: ASYNC110  # it says so to whoever asks
                    await asyncio.sleep(0.05)
            clients.append(RegistryClient(channel))
        yield clients
