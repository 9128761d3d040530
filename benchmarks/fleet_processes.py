"""A fleet of real processes on loopback, each of which may be killed: a registry, routers and workers on a store.

Starts them and says when a worker has joined; who is ended, and when, is its user's business.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.batches import house_styles
from benchmarks.brands import publish_brands
from benchmarks.mortal import Mortal
from looksmith.cli.stack import CHECKOUT, free_run
from looksmith.cli.traces import TraceStore, trace_store
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from services.registry.seaweedfs import RunningStore, seaweedfs

STUDIO = CHECKOUT / "deploy/recipes/studio.toml"
JOINS_WITHIN_S = 60.0
_ASK_EVERY_S = 0.05


@dataclass(frozen=True)
class Kind:
    """How a fleet is made. ``module`` is what a worker runs, with ``settings`` beyond those that each has."""

    module: str
    settings: dict[str, str]
    sizes: tuple[int, ...] = (128,)  # of pictures, which are square; the first is the default
    workers: int = 3
    routers: int = 1


@dataclass(frozen=True)
class Fleet:
    """Running processes, and the spans that they export."""

    registry: Mortal
    routers: tuple[Mortal, ...]
    workers: tuple[Mortal, ...]
    traces: TraceStore

    def worker(self, name: str) -> Mortal:
        return next(worker for worker in self.workers if worker.name == name)

    async def joined(self, worker: Mortal, *, but: str = "") -> None:
        """Returns once every router takes the worker as ready, in another incarnation than ``but``."""
        await asyncio.gather(*(self._joined(router, worker, but) for router in self.routers))

    async def _joined(self, router: Mortal, worker: Mortal, but: str) -> None:
        async with asyncio.timeout(JOINS_WITHIN_S):
            while await self.incarnation(router, worker) in {"", but}:  # noqa: ASYNC110  # a router tells who asks
                await asyncio.sleep(_ASK_EVERY_S)

    async def incarnation(self, router: Mortal, worker: Mortal) -> str:
        """Of a worker that is ready, as a router knows it; empty: it is not."""
        async with grpc.aio.insecure_channel(router.address) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            with suppress(grpc.aio.AioRpcError):
                for known in (await stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=2)).workers:
                    if known.registration.name == worker.name and known.state == fleet_pb2.WORKER_STATE_READY:
                        return known.registration.incarnation
        return ""

    async def anew(self, worker: Mortal) -> None:
        """Starts a worker that has ended, and returns once all routers know it."""
        await worker.start()
        await worker.serves()
        await self.joined(worker)


@asynccontextmanager
async def fleet(
    folder: Path, kind: Kind, files: Sequence[Path], *, on: RunningStore | None = None
) -> AsyncIterator[Fleet]:
    """All of it, ready, with every file published as the house style of a brand of its stem's name.

    ``on``: a store that runs; None: one of its own.
    """
    base = free_run(3 + kind.routers + kind.workers)
    otlp, at_router = base + 1, base + 3
    at_worker = at_router + kind.routers
    recipe = _recipe(folder, kind.sizes)
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    python = [sys.executable, "-m"]
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(trace_store(http_port=base, otlp_port=otlp))
        store = await stack.enter_async_context(seaweedfs(folder / "store")) if on is None else on

        async def mortal(name: str, module: str, port: int, settings: dict[str, str]) -> Mortal:
            made = Mortal(name, [*python, module], port=port, environ=environ | settings, logs=folder / "logs")
            return await stack.enter_async_context(made)

        registry_settings = {"REGISTRY_PORT": str(base + 2), "REGISTRY_NAME": "registry-0", **store.environ()}
        registry = await mortal("registry-0", "services.registry", base + 2, registry_settings)
        routers = tuple(
            [
                await mortal(
                    f"router-{i}",
                    "services.router",
                    at_router + i,
                    {
                        "ROUTER_NAME": f"router-{i}",
                        "ROUTER_PORT": str(at_router + i),
                        "ROUTER_REGISTRY": registry.address,
                    },
                )
                for i in range(kind.routers)
            ]
        )
        workers = tuple(
            [
                await mortal(
                    f"worker-{i}",
                    kind.module,
                    at_worker + i,
                    {
                        "WORKER_NAME": f"worker-{i}",
                        "WORKER_PORT": str(at_worker + i),
                        "WORKER_REGISTRY": registry.address,
                        "WORKER_ROUTERS": ",".join(router.address for router in routers),
                        "WORKER_RECIPES": str(recipe),
                        "WORKER_DISK_CACHE": str(folder / f"worker-{i}"),
                        **kind.settings,
                    },
                )
                for i in range(kind.workers)
            ]
        )
        everyone = (registry, *routers, *workers)
        for each in everyone:
            await each.start()
        await asyncio.gather(*(each.serves() for each in everyone))
        async with grpc.aio.insecure_channel(registry.address) as channel:
            await publish_brands(channel, files)
        running = Fleet(registry, routers, workers, traces)
        await asyncio.gather(*map(running.joined, workers))
        yield running


def _recipe(folder: Path, sizes: Sequence[int]) -> Path:
    """The studio's recipe, for these sizes."""
    text = STUDIO.read_text("utf-8").replace("../../models", str(CHECKOUT / "models"))
    text = text.replace("sizes = [[128, 128]]", f"sizes = {[[size, size] for size in sizes]}")
    file = folder / "studio.toml"
    file.write_text(text, "utf-8")
    return file


def house_style_files(folder: Path) -> list[Path]:
    """The shipped looks, each in a file that is named after its brand."""
    (folder / "styles").mkdir()
    return [
        Path(shutil.copy(file, folder / "styles" / f"{brand}.safetensors"))
        for brand, file in house_styles(folder).items()
    ]
