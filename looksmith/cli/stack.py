"""The local stack: store, registry, router and workers as processes of this machine, stopped together.

Needs a checkout, whose services it starts by module name; imports none of them. Keeps a log file a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from looksmith.cli.terminal import Problem
from looksmith.cli.traces import TraceStore, trace_store

CHECKOUT = Path(__file__).parents[2]

#: Seconds that a process may take until its health says SERVING. A worker loads torch and a base first.
READY_WITHIN_S = 60.0
#: Seconds from SIGTERM to SIGKILL.
STOP_WITHIN_S = 8.0


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


@dataclass
class Stack:
    """A running stack. ``processes`` by name; ends with the context manager that made it."""

    ports: Ports
    traces: TraceStore
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def router(self) -> str:
        return f"127.0.0.1:{self.ports.router}"

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.ports.registry}"

    async def wait_for_an_end(self) -> str:
        """Returns the name of the first process that ends."""
        waits = {asyncio.create_task(p.wait()): name for name, p in self.processes.items()}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return waits[done.pop()]


@asynccontextmanager
async def local_stack(
    folder: Path,
    *,
    ports: Ports,
    workers: int = 2,
    on_phase: Callable[[str], None] = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Stack]:
    """Starts everything, workers beside store and registry, and waits until all of it serves.

    Args:
        folder: holds the store's data, the workers' caches and ``logs/``.
        ports: where to listen.
        workers: number of GPU workers.
        on_phase: told what has just become ready.
        environ: what the processes inherit.

    Raises:
        Problem: a port is taken, this is no checkout, or a process did not come up; names it and its log.
    """
    if not (CHECKOUT / "services").is_dir():
        raise Problem("the local stack needs a checkout of Looksmith: clone it and run `make setup`")
    worker_ports = [ports.first_worker + i for i in range(workers)]
    for port in (ports.router, ports.registry, ports.store, ports.traces, ports.otlp, *worker_ports):
        if not _is_free(port):
            raise Problem(f"port {port} is taken: stop what listens there, or choose others with --port")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(trace_store(http_port=ports.traces, otlp_port=ports.otlp))
        running = Stack(ports, traces)
        inherited = {
            **environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports.otlp}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONUNBUFFERED": "1",
        }

        async def start(name: str, module: str, *arguments: str, **settings: object) -> asyncio.subprocess.Process:
            process = await stack.enter_async_context(
                _process(
                    [sys.executable, "-m", module, *arguments],
                    log=_log(name, folder),
                    environ=inherited | {key: str(value) for key, value in settings.items()},
                )
            )
            running.processes[name] = process
            return process

        store_keys = {"ACCESS_KEY": "looksmith", "SECRET_KEY": "looksmith-local"}
        await start(
            "store", "services.registry.seaweedfs", f"--folder={folder / 'store'}", f"--port={ports.store}",
            *(f"--{key.lower().replace('_', '-')}={value}" for key, value in store_keys.items()),
        )  # fmt: skip
        # Torch takes longest to import, so workers start first; the registry needs a store that takes writes.
        for i, port in enumerate(worker_ports):
            await start(
                f"worker-{i}",
                "services.gpu_worker",
                WORKER_NAME=f"worker-{i}",
                WORKER_PORT=port,
                WORKER_REGISTRY=running.registry,
                WORKER_ROUTERS=running.router,
                WORKER_RECIPES=CHECKOUT / "deploy/recipes/studio.toml",
                WORKER_DISK_CACHE=folder / f"worker-{i}",
                WORKER_THREADS=max(1, (os.cpu_count() or 1) // workers),
            )
        await _until_said("store", "store ready on", running.processes, folder)
        on_phase(f"store on 127.0.0.1:{ports.store}, pid {running.processes['store'].pid}")
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
        listening = {"registry": ports.registry, "router": ports.router}
        listening |= {f"worker-{i}": port for i, port in enumerate(worker_ports)}
        for name, port in listening.items():
            await _until_serving(name, port, running.processes, folder)
            on_phase(f"{name} on 127.0.0.1:{port}, pid {running.processes[name].pid}")
        yield running


@asynccontextmanager
async def _process(
    argv: list[str], *, log: Path, environ: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One process in a session of its own, so that Ctrl-C reaches it through us, in order."""
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=CHECKOUT, env=dict(environ), stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()


Processes = Mapping[str, asyncio.subprocess.Process]


async def _tries(name: str, processes: Processes, folder: Path) -> AsyncIterator[None]:
    """Yields ten times a second while ``name`` gets ready; ends in a Problem when it can't or any process ends."""
    deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
    while asyncio.get_running_loop().time() < deadline:
        for other, process in processes.items():
            if process.returncode is not None:
                raise Problem(_why(other, folder, f"ended with code {process.returncode}"))
        yield
        await asyncio.sleep(0.1)
    raise Problem(_why(name, folder, f"is not ready after {READY_WITHIN_S:.0f} s"))


async def _until_said(name: str, line: str, processes: Processes, folder: Path) -> None:
    async for _ in _tries(name, processes, folder):
        if line in _log(name, folder).read_text(errors="replace"):
            return


async def _until_serving(name: str, port: int, processes: Processes, folder: Path) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        async for _ in _tries(name, processes, folder):
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)  # type: ignore[attr-defined]  # untyped
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return


def _log(name: str, folder: Path) -> Path:
    return folder / "logs" / f"{name}.log"


def _why(name: str, folder: Path, what: str) -> str:
    log = _log(name, folder)
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return f"{name} {what}: {last[0][:400] if last else 'it said nothing'} (log: {log})"
