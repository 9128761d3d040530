"""How long a registry takes from its start until it answers, on a store that holds a good deal.

Fills the store and asks; what a registry reads when it starts is its own affair.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
from tqdm import tqdm

from benchmarks.replicas import environ_of, killed, serves
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, free_run
from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Brand
from services.registry.client import FakeRegistryClient, RegistryClient, measured
from services.registry.compose import WRITES
from services.registry.messages import PublishHeader
from services.registry.object_store import Creation, ObjectStore
from services.registry.seaweedfs import RunningStore, seaweedfs
from services.registry.watch import SnapshotEnd

BRANDS, ADAPTERS_EACH, VERSIONS = 50, 10, 20
STARTS = 3
_WRITES_AT_ONCE = 32
_ASK_EVERY_S = 0.01


async def restart(folder: Path) -> dict[str, float]:
    """Seconds from the start of a process until each of what it does, the median of a few starts."""
    async with seaweedfs(folder / "store") as store, store.client() as objects:
        began = time.perf_counter()
        await fill(objects)
        filled_s = time.perf_counter() - began
        took = [await one_start(store, folder / f"start-{number}.log") for number in tqdm(range(STARTS), desc="starts")]
    return {
        **{name: statistics.median(each[name] for each in took) for name in took[0]},
        "restart_adapters": float(BRANDS * ADAPTERS_EACH),
        "restart_fill_s": filled_s,
    }


async def fill(store: ObjectStore) -> None:
    """Puts what a registry in memory has made of many publications into a store, in the order of its logs."""
    for number in tqdm(range(BRANDS), desc="brands filled"):
        made = FakeRegistryClient()
        brand = _brand(number)
        await made.put_brand(Brand(brand))
        for adapter in range(ADAPTERS_EACH):
            for version in range(VERSIONS):
                data = f"{brand}/{adapter}/{version}".encode()
                await made.publish(PublishHeader(brand, f"style-{adapter}", "sd15", *measured([data])), [data])
        turns = asyncio.Semaphore(_WRITES_AT_ONCE)

        async def copy(key: str, data: bytes, turns: asyncio.Semaphore = turns) -> None:
            async with turns:
                if await store.create_if_absent(key, data) is not Creation.CREATED:
                    raise RuntimeError(f"{key} was not written")

        await asyncio.gather(*(copy(key, data) for key, data in made.store.objects.items()))


async def one_start(store: RunningStore, log: Path) -> dict[str, float]:
    """Seconds until each of what a process does; it is killed afterwards, as a crash would."""
    port = free_run(1)
    began = time.perf_counter()

    async def until(ready: Callable[[], Awaitable[bool]]) -> float:
        while not await ready():  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(_ASK_EVERY_S)
        return time.perf_counter() - began

    async with _process(store, port, log), asyncio.timeout(READY_WITHIN_S):
        await until(lambda: _is_open(port))  # a channel that was once refused waits a second
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            registry = RegistryClient(channel)
            resolves, serving, writes, snapshot = await asyncio.gather(
                until(lambda: _resolves(registry)),
                until(lambda: serves(channel, "")),
                until(lambda: serves(channel, WRITES)),
                until(lambda: _tells_all(registry)),
            )
    return {
        "restart_s": resolves,
        "restart_serving_s": serving,
        "restart_writes_s": writes,
        "restart_snapshot_s": snapshot,
    }


@asynccontextmanager
async def _process(store: RunningStore, port: int, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.registry",
            cwd=CHECKOUT,
            env=environ_of(store, PORT=str(port)),
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        await killed(process)


async def _is_open(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def _resolves(registry: RegistryClient) -> bool:
    with suppress(LooksmithError):
        ref = AdapterRef(_brand(BRANDS - 1), f"style-{ADAPTERS_EACH - 1}", VERSIONS)
        return (await registry.resolve(ref)).version.version == VERSIONS
    return False


async def _tells_all(registry: RegistryClient) -> bool:
    async for message in registry.watch():
        if isinstance(message, SnapshotEnd):
            return message.adapters == BRANDS * ADAPTERS_EACH
    return False


def _brand(number: int) -> str:
    return f"brand-{number:03d}"
