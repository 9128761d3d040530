"""What the talk's agency has, on one machine: a store, two registries, two routers and up to four workers.

Whoever is killed is started anew a moment later, as Kubernetes would. When that happens is chaos.py's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.loadtest.chaos import Act, Kind
from benchmarks.mortal import Mortal
from looksmith.cli.calls import connected
from looksmith.cli.stack import STUDIO, free_run
from looksmith.errors import LooksmithError
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from services.registry.seaweedfs import seaweedfs

REGISTRIES, ROUTERS, WORKERS = 2, 2, 4
#: Seconds after which a process that has ended is started anew.
STARTED_ANEW_S = 1.0
#: Seconds for a worker to finish its jobs.
ENDS_WITHIN_S = 120.0
_READY_WITHIN_S = 180.0
_ASK_EVERY_S = 0.25


@dataclass(frozen=True)
class Happening:
    """Something that was done to the system, or that it did; ``at`` by ``time.monotonic``."""

    at: float
    what: str


class Cluster:
    """Running processes. ``tell`` hears of all that is done to them."""

    def __init__(
        self,
        *,
        store_pid: int,
        registries: tuple[Mortal, ...],
        routers: tuple[Mortal, ...],
        workers: tuple[Mortal, ...],
        tell: Callable[[Happening], None],
    ) -> None:
        self._store_pid = store_pid
        self._registries, self._routers, self._workers = registries, routers, workers
        self._tell = tell
        self._wanted: set[str] = set()
        self._keepers: dict[str, asyncio.Task[None]] = {}

    @property
    def routers(self) -> tuple[str, ...]:
        return tuple(router.address for router in self._routers)

    @property
    def registry(self) -> str:
        return self._registries[0].address

    async def open(self) -> None:
        """Starts all but the workers, and returns once they serve."""
        for each in (*self._registries, *self._routers):
            await self._start(each)
        await asyncio.gather(*(each.serves() for each in (*self._registries, *self._routers)))

    async def close(self) -> None:
        self._wanted.clear()
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    async def scale(self, count: int) -> None:
        """Has so many workers from now on; does not wait until they serve, or have ended."""
        for worker in self._workers[:count]:
            if worker.name not in self._wanted:
                await self._start(worker)
        for worker in self._workers[count:]:
            self._wanted.discard(worker.name)
            worker.signal(signal.SIGTERM)
        self._tell(Happening(time.monotonic(), f"scaled to {count}"))

    async def ready(self, count: int) -> None:
        """Returns once exactly so many workers are ready at every router. Raises: TimeoutError."""
        async with asyncio.timeout(_READY_WITHIN_S):
            while await self.ready_workers() != [count] * len(self._routers):  # noqa: ASYNC110  # routers tell who asks
                await asyncio.sleep(_ASK_EVERY_S)

    async def ready_workers(self) -> list[int]:
        """How many each router knows; of one that does not answer: none."""
        return list(await asyncio.gather(*(ready_workers(router.address) for router in self._routers)))

    async def do(self, act: Act) -> None:
        """Returns once it is done, which for a process that stands still is when it goes on."""
        if act.kind is Kind.SCALE:
            await self.scale(int(act.who))
            return
        name, strike = self._target(act.who)
        self._tell(Happening(time.monotonic(), f"{act.kind} {name}"))
        if act.kind is Kind.KILL:
            strike(signal.SIGKILL)
            return
        strike(signal.SIGSTOP)
        await asyncio.sleep(act.for_s)
        strike(signal.SIGCONT)
        self._tell(Happening(time.monotonic(), f"{name} goes on"))

    def _target(self, who: str) -> tuple[str, Callable[[signal.Signals], None]]:
        if who == "store":
            return who, lambda number: os.kill(self._store_pid, number)
        process = next(p for p in (*self._registries, *self._routers, *self._workers) if p.name == who)
        return process.name, process.signal

    async def _start(self, process: Mortal) -> None:
        await self._gone(process)
        self._wanted.add(process.name)
        await process.start()
        self._keepers[process.name] = asyncio.create_task(self._keep(process))

    async def _gone(self, process: Mortal) -> None:
        """One that was told to end may still be finishing its jobs."""
        if keeper := self._keepers.pop(process.name, None):
            await keeper

    async def _keep(self, process: Mortal) -> None:
        """Starts it anew for as long as it is wanted."""
        while True:
            code = await process.ended(within_s=float("inf"))
            if process.name not in self._wanted:
                self._tell(Happening(time.monotonic(), f"{process.name} ended with {code}"))
                return
            await asyncio.sleep(STARTED_ANEW_S)
            await process.start()


async def ready_workers(router: str) -> int:
    with suppress(grpc.aio.AioRpcError, LooksmithError):
        async with connected(router) as channel:
            listed = await fleet_pb2_grpc.FleetServiceStub(channel).ListWorkers(
                fleet_pb2.ListWorkersRequest(), timeout=2
            )
            return sum(worker.state == fleet_pb2.WORKER_STATE_READY for worker in listed.workers)
    return 0


@asynccontextmanager
async def cluster(folder: Path, *, tell: Callable[[Happening], None]) -> AsyncIterator[Cluster]:
    """All but the workers, ready; what runs at the end is killed. Logs are in ``folder``/logs, one a life."""
    base = free_run(REGISTRIES + ROUTERS + WORKERS)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(seaweedfs(folder / "store"))
        ports = iter(range(base, base + REGISTRIES + ROUTERS + WORKERS))

        async def mortals(kind: str, module: str, count: int, settings: dict[str, str]) -> tuple[Mortal, ...]:
            """Named and numbered, each with a port, and with a cache where it wants one."""
            made = []
            for number in range(count):
                name, port, prefix = f"{kind}-{number}", next(ports), kind.upper()
                own = {f"{prefix}_NAME": name, f"{prefix}_PORT": str(port)}
                if kind == "worker":
                    own["WORKER_DISK_CACHE"] = str(folder / name)
                process = Mortal(
                    name,
                    [sys.executable, "-m", module],
                    port=port,
                    environ=environ | settings | own,
                    logs=folder / "logs",
                )
                made.append(await stack.enter_async_context(process))
            return tuple(made)

        registries = await mortals("registry", "services.registry", REGISTRIES, store.environ())
        # As gRPC names several addresses: the next one is asked where one is gone.
        either_registry = "ipv4:" + ",".join(each.address for each in registries)
        routers = await mortals("router", "services.router", ROUTERS, {"ROUTER_REGISTRY": either_registry})
        workers = await mortals(
            "worker",
            "services.gpu_worker",
            WORKERS,
            {
                "WORKER_REGISTRY": either_registry,
                "WORKER_ROUTERS": ",".join(router.address for router in routers),
                "WORKER_RECIPES": str(STUDIO),
                "WORKER_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
            },
        )
        running = Cluster(store_pid=store.pid, registries=registries, routers=routers, workers=workers, tell=tell)
        stack.push_async_callback(running.close)
        await running.open()
        yield running
