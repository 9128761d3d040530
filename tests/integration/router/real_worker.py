"""A router and one real worker that has joined it, with an engine that a test gives: for what both must agree on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import FilesRegistry


@asynccontextmanager
async def router_and_worker(
    folder: Path, registry: FilesRegistry, engine: FakeEngine
) -> AsyncIterator[tuple[str, str]]:
    """The addresses of both; the worker is ready."""
    front = RouterSettings(name="r1", registry="unused", shutdown_grace_s=0)
    async with router(front, registry=registry) as routing:
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": "unused",
                "WORKER_DISK_CACHE": str(folder),
                "WORKER_ROUTERS": routing.address,
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        async with (
            gpu_worker(painting, registry=registry, engine=engine) as worker,
            FleetClient.connect(routing.address) as fleet,
            asyncio.timeout(10),
        ):
            while not await fleet.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
            yield routing.address, worker.address
