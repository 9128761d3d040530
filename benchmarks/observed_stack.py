"""A registry, a router and workers as processes that can be looked into, on a store, with spans going somewhere.

Starts them and says what they have; what is done to them is its user's business.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.mortal import Mortal
from benchmarks.observed import FILE, Observation, observe
from benchmarks.process_samples import Sample, family, sample
from looksmith.cli.stack import STUDIO, free_run
from looksmith.cli.traces import trace_store
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from services.registry.seaweedfs import RunningStore, seaweedfs

_JOINED_WITHIN_S, _ASK_EVERY_S = 120.0, 0.1


@dataclass(frozen=True)
class Observed:
    """One of the processes, and the file in which it answers."""

    process: Mortal
    file: Path

    @property
    def name(self) -> str:
        return self.process.name

    def samples(self) -> list[Sample]:
        """Of itself, then of each process that it has started; none once it has ended."""
        found = (sample(pid) for pid in family(self.process.pid))
        return [each for each in found if each]

    async def observation(self) -> Observation:
        return await observe(self.process.pid, self.file)


@dataclass(frozen=True)
class ObservedStack:
    registry: Observed
    router: Observed
    workers: tuple[Observed, ...]
    store: RunningStore

    @property
    def all(self) -> tuple[Observed, ...]:
        return self.registry, self.router, *self.workers


@asynccontextmanager
async def observed_stack(
    folder: Path, *, workers: int, settings: Mapping[str, str], on: RunningStore | None = None
) -> AsyncIterator[ObservedStack]:
    """All of it, once every worker has joined.

    Args:
        folder: for the store, caches and logs.
        workers: how many.
        settings: of any of the services, beyond those that each has.
        on: a store that runs; None: one of its own.
    """
    base = free_run(4 + workers)
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{base + 1}",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        **settings,
    }
    registry_at, router_at = f"127.0.0.1:{base + 2}", f"127.0.0.1:{base + 3}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(trace_store(http_port=base, otlp_port=base + 1))
        store = on if on is not None else await stack.enter_async_context(seaweedfs(folder / "store"))

        async def observed(name: str, module: str, port: int, own: Mapping[str, str]) -> Observed:
            file = folder / f"{name}.observed"
            prefix = name.partition("-")[0].upper()
            given = {f"{prefix}_NAME": name, f"{prefix}_PORT": str(port), FILE: str(file), **own}
            argv = [sys.executable, "-m", "benchmarks.observed", module]
            process = Mortal(name, argv, port=port, environ=environ | given, logs=folder / "logs")
            await stack.enter_async_context(process)
            await process.start()
            return Observed(process, file)

        registry = await observed("registry-0", "services.registry", base + 2, store.environ())
        router = await observed("router-0", "services.router", base + 3, {"ROUTER_REGISTRY": registry_at})
        painting = []
        for number in range(workers):
            name = f"worker-{number}"
            own = {
                "WORKER_REGISTRY": registry_at,
                "WORKER_ROUTERS": router_at,
                "WORKER_RECIPES": str(STUDIO),
                "WORKER_THREADS": "1",
                "WORKER_DISK_CACHE": str(folder / name),
            }
            painting.append(await observed(name, "services.gpu_worker", base + 4 + number, own))
        running = ObservedStack(registry, router, tuple(painting), store)
        await asyncio.gather(*(each.process.serves() for each in running.all))
        await _joined(router_at, workers)
        yield running


async def _joined(router: str, workers: int) -> None:
    async with asyncio.timeout(_JOINED_WITHIN_S), grpc.aio.insecure_channel(router) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        while len((await fleet.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=10)).workers) < workers:  # noqa: ASYNC110  # it tells who asks
            await asyncio.sleep(_ASK_EVERY_S)
