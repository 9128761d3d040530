"""The local stack: store, registry, router and workers as processes of this machine, stopped together.

Needs a checkout, whose services it starts by module name; imports none of them. Keeps a log file a process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from looksmith.bases.settings import LOCAL_ACCESS_KEY, LOCAL_SECRET_KEY
from looksmith.cli.processes import Processes
from looksmith.cli.terminal import Problem
from looksmith.cli.traces import TraceStore, trace_store
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]
#: The recipe of the model that ships.
STUDIO = CHECKOUT / "deploy" / "recipes" / "studio.toml"

#: Seconds that a process may take until its health says SERVING; a worker first reads its bases: SDXL's 7 GB, twice.
READY_WITHIN_S, WORKER_READY_WITHIN_S = 60.0, 900.0
#: Seconds from the first SIGTERM to SIGKILL, for all processes together.
STOP_WITHIN_S = 20.0
#: What the store's process says once it takes writes.
STORE_READY = "store ready on"


@dataclass(frozen=True)
class Ports:
    """Where everything listens, on loopback."""

    router: int
    registry: int
    store: int
    traces: int
    otlp: int
    first_worker: int

    @classmethod
    def from_base(cls, base: int) -> Ports:
        return cls(base, base + 1, base + 2, base + 3, base + 4, base + 10)

    @classmethod
    def free(cls, workers: int) -> Ports:
        """Ports that nobody listens on at this moment."""
        return cls.from_base(free_run(10 + workers))

    def by_name(self, workers: int) -> dict[str, int]:
        """Every port that a stack of so many workers listens on."""
        shared = {
            "router": self.router,
            "registry": self.registry,
            "store": self.store,
            "traces": self.traces,
            "span receiver": self.otlp,
        }
        return shared | {f"worker-{i}": self.first_worker + i for i in range(workers)}


def free_run(length: int) -> int:
    """The first of ``length`` neighbouring ports that nobody listens on at this moment."""
    for base in range(20_000 + os.getpid() % 10_000, 60_000, length):
        if all(_is_free(base + i) for i in range(length)):
            return base
    raise Problem("no free ports on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Stack:
    """A running stack; ends with the context manager that made it."""

    ports: Ports
    traces: TraceStore
    processes: Processes
    workers: int

    @property
    def router(self) -> str:
        return f"127.0.0.1:{self.ports.router}"

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.ports.registry}"

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """As Processes.during: of the workers one is enough, of everything else there is only one."""
        return await self.processes.during(work, alike=[f"worker-{i}" for i in range(self.workers)])


def check_platform() -> None:
    """Raises: Problem, where no local stack can run."""
    if sys.platform != "linux":
        raise Problem(f"platform: the local stack runs on Linux, not on {sys.platform}; use a container or a VM")
    if not (CHECKOUT / "services").is_dir():
        raise Problem("the local stack needs a checkout of Looksmith: clone it and run `make setup`")


def check_ports(ports: Ports, workers: int) -> None:
    """Raises: Problem, which names the first port that is taken, what wanted it, and the option that moves it."""
    for name, port in ports.by_name(workers).items():
        if not _is_free(port):
            where = f"--port + {port - ports.router}" if port != ports.router else "--port"
            raise Problem(
                f"port {port} is taken, which the {name} needs ({where}): stop what listens there, or move the whole "
                "stack with --port"
            )


@asynccontextmanager
async def local_stack(
    folder: Path,
    *,
    ports: Ports,
    workers: int = 2,
    recipes: Sequence[Path] = (STUDIO,),
    device: str = "cpu",
    on_phase: Callable[[str], None] = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Stack]:
    """Starts everything, workers beside store and registry, and waits until all of it serves.

    Args:
        folder: holds the store's data, the workers' caches and ``logs/``. Absolute: the processes start elsewhere.
        ports: where to listen.
        workers: number of GPU workers.
        recipes: what they paint with; the first is for requests that name none.
        device: where, "cpu" or "cuda".
        on_phase: told what has just become ready, and that stopping begins.
        environ: what the processes inherit.

    Raises:
        Problem: a port is taken, this is no checkout, or a process did not come up; names it and its log.
    """
    check_platform()
    check_ports(ports, workers)
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(trace_store(http_port=ports.traces, otlp_port=ports.otlp))
        telemetry = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports.otlp}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONUNBUFFERED": "1",
        }
        processes = await stack.enter_async_context(
            Processes(
                folder / "logs",
                cwd=CHECKOUT,
                environ={**environ, **telemetry},
                stop_within_s=STOP_WITHIN_S,
                on_phase=on_phase,
            )
        )
        running = Stack(ports, traces, processes, workers)

        async def start(name: str, module: str, *arguments: str, **settings: object) -> None:
            await processes.start(name, [sys.executable, "-m", module, *arguments], **settings)

        async def ready(name: str, is_ready: Callable[[], Awaitable[bool]]) -> None:
            within_s = WORKER_READY_WITHIN_S if name.startswith("worker-") else READY_WITHIN_S
            await processes.until(name, is_ready, within_s=within_s)
            port = ports.by_name(workers)[name]
            on_phase(f"{name} on 127.0.0.1:{port}, pid {processes.pid(name)}, log {processes.log(name)}")

        store_keys = {"ACCESS_KEY": LOCAL_ACCESS_KEY, "SECRET_KEY": LOCAL_SECRET_KEY}
        await start(
            "store", "services.registry.seaweedfs", f"--folder={folder / 'store'}", f"--port={ports.store}",
            *(f"--{key.lower().replace('_', '-')}={value}" for key, value in store_keys.items()),
        )  # fmt: skip
        # Torch takes longest to import, so workers start first; the registry needs a store that takes writes.
        worker_ports = {f"worker-{i}": ports.first_worker + i for i in range(workers)}
        for name, port in worker_ports.items():
            await start(
                name,
                "services.gpu_worker",
                WORKER_NAME=name,
                WORKER_PORT=port,
                WORKER_REGISTRY=running.registry,
                WORKER_ROUTERS=running.router,
                WORKER_RECIPES=",".join(map(str, recipes)),
                WORKER_BASES=folder / "bases",
                WORKER_DEVICE=device,
                WORKER_DISK_CACHE=folder / name,
                WORKER_THREADS=max(1, (os.cpu_count() or 1) // workers),
            )
        await ready("store", lambda: asyncio.to_thread(_has_said, STORE_READY, processes.log("store")))
        await start(
            "registry",
            "services.registry",
            REGISTRY_PORT=ports.registry,
            REGISTRY_STORE_ENDPOINT=f"127.0.0.1:{ports.store}",
            **{f"REGISTRY_STORE_{key}": value for key, value in store_keys.items()},
        )
        await start(
            "router",
            "services.router",
            ROUTER_NAME="router-0",
            ROUTER_PORT=ports.router,
            ROUTER_REGISTRY=running.registry,
        )
        for name, address in (("registry", running.registry), ("router", running.router)):
            async with grpc.aio.insecure_channel(address) as channel:
                await ready(name, partial(is_serving, channel))
        async with grpc.aio.insecure_channel(running.router) as channel:
            for name in worker_ports:
                await ready(name, partial(_has_joined, channel, name))
        yield running


def _has_said(line: str, log: Path) -> bool:
    return line in log.read_text(errors="replace")


async def is_serving(channel: grpc.aio.Channel) -> bool:
    """Whether a server's health says so."""
    stub = health_pb2_grpc.HealthStub(channel)
    with suppress(grpc.aio.AioRpcError):
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)  # type: ignore[attr-defined]  # untyped
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


async def _has_joined(channel: grpc.aio.Channel, worker: str) -> bool:
    """Whether the router knows the worker, which reports once its engine is warm."""
    stub = fleet_pb2_grpc.FleetServiceStub(channel)
    with suppress(grpc.aio.AioRpcError):
        listed = await stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=1)
        return any(known.registration.name == worker for known in listed.workers)
    return False
