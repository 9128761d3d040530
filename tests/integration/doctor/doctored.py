"""A small system to plant faults in: a registry on a store in memory, routers, and workers whose engines pretend."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from pydantic import SecretStr

from looksmith.cli.doctor import examined
from looksmith.cli.findings import Finding, Level
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.server import grpc_server
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient
from services.registry.commit_log import Surroundings
from services.registry.compose import apis
from services.registry.core import Core, assemble
from services.registry.fake_client import TrustingJudge
from services.registry.object_store import InMemoryObjectStore, ObjectStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.fleet import WorkerView
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.registry.parts import header_for

SETTINGS = RegistrySettings(
    store_endpoint="memory", store_access_key="", store_secret_key=SecretStr(""), shutdown_grace_s=0
)


@dataclass
class System:
    """``engine_gate``: a step waits while it is closed."""

    folder: Path
    life: AsyncExitStack
    registry: str = ""
    routers: list[str] = field(default_factory=list)
    engine_gate: threading.Event = field(default_factory=threading.Event)

    async def add_router(self, name: str) -> str:
        settings = RouterSettings(
            name=name, registry=self.registry, heartbeat_interval_s=0.1, lease_s=5, shutdown_grace_s=0
        )
        server = await self.life.enter_async_context(router(settings))
        self.routers.append(server.address)
        return server.address

    async def add_worker(self, name: str, **environ: str) -> None:
        """Returns once the last router knows it."""
        settings = WorkerSettings.read(
            {
                "WORKER_NAME": name,
                "WORKER_REGISTRY": self.registry,
                "WORKER_DISK_CACHE": str(self.folder / name),
                "WORKER_ROUTERS": ",".join(self.routers),
                "WORKER_SHUTDOWN_GRACE_S": "0",
                "WORKER_DRAIN_S": "0",
                **environ,
            }
        )

        def sleep(seconds: float) -> None:
            if seconds:
                self.engine_gate.wait(30)

        engine = FakeEngine([facts()], costs=Costs(step=0.001), sleep=sleep)
        await self.life.enter_async_context(gpu_worker(settings, engine=engine))
        while name not in await self.workers():  # noqa: ASYNC110  # a router tells only who asks
            await asyncio.sleep(0.02)

    async def workers(self) -> dict[str, WorkerView]:
        async with FleetClient.connect(self.routers[-1]) as fleet:
            return {view.name: view for view in await fleet.list_workers()}

    async def paint(self, brand: str) -> None:
        async with grpc.aio.insecure_channel(self.routers[0]) as channel:
            stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
            async for _ in stub.Generate(pb.GenerateRequest(brand=brand, prompt="a kite"), timeout=20):
                pass

    async def findings(self, *, paint: bool = False) -> list[Finding]:
        return await examined(self.routers, [self.registry], paint=paint)

    async def complaints(self) -> list[str]:
        """Each finding that is not OK, as doctor prints it."""
        return [
            f"{each.level} {each.subject}: {each.what} -> {each.todo}"
            for each in await self.findings()
            if each.level is not Level.OK
        ]


async def furnished(store: ObjectStore | None = None) -> tuple[Core, FakeRegistryClient]:
    """A registry of two brands with one adapter each, and a way into it that needs no server."""
    core = assemble(
        store=store or InMemoryObjectStore(),
        judging=TrustingJudge,
        around=Surroundings(writer="reg-0"),
        head_max_age_s=0,
    )
    within = FakeRegistryClient(core=core)
    for brand in ("acme", "zenith"):
        await within.put_brand(Brand(brand, default_adapters=(AdapterUse("look"),)))
        data = brand.encode() * 20
        await within.publish(header_for(data, brand=brand, adapter="look", family="studio"), [data])
    return core, within


@asynccontextmanager
async def system(folder: Path, core: Core, *, workers: int = 1) -> AsyncIterator[System]:
    async with AsyncExitStack() as life:
        made = System(folder, life)
        made.engine_gate.set()
        life.callback(made.engine_gate.set)
        made.registry = (await life.enter_async_context(grpc_server(SETTINGS, apis(core)))).address
        await made.add_router("r1")
        for number in range(1, workers + 1):
            await made.add_worker(f"w{number}")
        yield made


async def until(condition: Callable[[], Awaitable[object]], *, seconds: float = 5) -> None:
    """Waits so long at most until ``condition`` returns something true."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # servers tell only who asks
            await asyncio.sleep(0.02)
