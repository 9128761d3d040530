"""Store, registry, router and workers as processes on loopback, each of which may be ended and started anew.

Owns their lives, their logs and the brands that they know; what is asked of them is for others.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Self

import grpc

from benchmarks.lost_answers import FAMILY, small_file
from benchmarks.replicas import killed
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S, STORE_READY, free_run, is_serving
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

ADAPTER = "look"
_STORE_KEYS = {"ACCESS_KEY": "looksmith", "SECRET_KEY": "looksmith-local"}
_ENDS_WITHIN_S = 90.0
_LAST_LINES = 20


class RouterStack:
    """Starts nothing by itself. What still runs when the context is left is killed."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for data, caches and logs."""
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._store, self._registry, self._router = (free_run(3) + i for i in range(3))

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for name in reversed(list(self._running)):
            await self.end(name, signal.SIGKILL)

    @property
    def router(self) -> str:
        return f"127.0.0.1:{self._router}"

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self._registry}"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def log(self, name: str) -> Path:
        """What a process has said, also one that has ended; one that is started anew goes on there."""
        return self._folder / f"{name}.log"

    # Starting and ending

    async def start_records(self) -> None:
        """Store and registry."""
        keys = [f"--{key.lower().replace('_', '-')}={value}" for key, value in _STORE_KEYS.items()]
        arguments = [f"--folder={self._folder / 'store'}", f"--port={self._store}", *keys]
        said_before = _count(STORE_READY, self.log("store"))
        await self.start("store", "services.registry.seaweedfs", *arguments)

        async def store_is_ready() -> bool:
            return await asyncio.to_thread(_count, STORE_READY, self.log("store")) > said_before

        await self.until("store", store_is_ready)
        await self.start(
            "registry",
            "services.registry",
            REGISTRY_PORT=self._registry,
            REGISTRY_STORE_ENDPOINT=f"127.0.0.1:{self._store}",
            REGISTRY_SHUTDOWN_GRACE_S=1,
            **{f"REGISTRY_STORE_{key}": value for key, value in _STORE_KEYS.items()},
        )
        await self._until_serving("registry", self.registry)

    async def start_router(self, **settings: object) -> None:
        await self.start(
            "router",
            "services.router",
            ROUTER_NAME="router-0",
            ROUTER_PORT=self._router,
            ROUTER_REGISTRY=self.registry,
            **settings,
        )
        await self._until_serving("router", self.router)

    async def start_worker(self, name: str, **settings: object) -> None:
        """A worker that has joined; one with the timed engine, unless told otherwise."""
        given: dict[str, object] = {
            "WORKER_ENGINE": "timed",
            "WORKER_NAME": name,
            "WORKER_REGISTRY": self.registry,
            "WORKER_ROUTERS": self.router,
            "WORKER_DISK_CACHE": self._folder / name,
            "WORKER_RECIPES": CHECKOUT / "deploy/recipes/studio.toml",
            **settings,
        }
        await self.start(name, "services.gpu_worker", **given)
        await self.until_joined(name)

    async def start(self, name: str, module: str, *arguments: str, **settings: object) -> None:
        """A process that may not be ready yet. ``settings`` are all of its environment that others do not share."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "PYTHONUNBUFFERED": "1"}
        with self.log(name).open("ab") as output:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                cwd=CHECKOUT,
                env=environ | {key: str(value) for key, value in settings.items()},
                stdout=output,
                stderr=output,
            )

    async def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Returns once it has ended; SIGKILL ends one that takes too long."""
        process = self._running.pop(name)
        if process.returncode is None:
            os.kill(process.pid, how)
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await process.wait()
        finally:
            await killed(process)

    # Being ready

    async def until(self, name: str, ready: Callable[[], Awaitable[bool]]) -> None:
        """Asks twenty times a second.

        Raises:
            RuntimeError: the process has ended, or is not ready in time.
        """
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await ready():
                    if self._running[name].returncode is not None:
                        raise TimeoutError  # noqa: TRY301  # it will never be ready, and is quoted likewise
                    await asyncio.sleep(0.05)
        except TimeoutError:
            lines = self.log(name).read_text(errors="replace").splitlines()
            raise RuntimeError("\n".join([f"{name} did not get ready:", *lines[-_LAST_LINES:]])) from None

    async def until_joined(self, name: str) -> None:
        """Until the router knows a worker."""
        async with grpc.aio.insecure_channel(self.router) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)

            async def joined() -> bool:
                listed = await stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=10)
                return any(known.registration.name == name for known in listed.workers)

            await self.until(name, joined)

    async def _until_serving(self, name: str, address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
            await self.until(name, partial(is_serving, channel))


async def publish_small_brands(registry: str, names: list[str]) -> None:
    """Gives each name a brand whose default adapter is a small file of its own."""
    async with grpc.aio.insecure_channel(registry) as channel:
        client = RegistryClient(channel)
        for number, name in enumerate(names):
            data = await asyncio.to_thread(small_file, 9_000_000 + number)
            await client.put_brand(Brand(name, default_adapters=(AdapterUse(ADAPTER),)))
            await client.publish(PublishHeader(name, ADAPTER, FAMILY, *measured([data])), [data], deadline_s=60)


@asynccontextmanager
async def router_stack(folder: Path, *, brands: list[str], **router_settings: object) -> AsyncIterator[RouterStack]:
    """A router that knows brands, and no worker yet."""
    async with RouterStack(folder) as stack:
        await stack.start_records()
        await publish_small_brands(stack.registry, brands)
        await stack.start_router(**router_settings)
        yield stack


def _count(line: str, log: Path) -> int:
    return log.read_text(errors="replace").count(line) if log.exists() else 0
