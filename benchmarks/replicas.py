"""Registry processes to be killed, each behind a proxy of its own, and some always started ahead.

They do nothing by themselves once they are ready: every request that the proxy notes belongs to a call.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.deadly_proxy import DeadlyProxy
from looksmith.cli.stack import CHECKOUT, READY_WITHIN_S
from services.registry import layout
from services.registry.client import RegistryClient
from services.registry.compose import WRITES
from services.registry.seaweedfs import RunningStore

#: What replicas do in the background once they have started, whatever is asked of them.
BACKGROUND = (layout.FEED, layout.PROBES)
#: No memory, which depends on time; and nothing that is done now and again.
QUIET = {"HEAD_MAX_AGE_S": "0", "FEED_EVERY_S": "3600", "RECONCILE_S": "3600", "GC_EVERY_S": "86400"}
QUIET_FOR_S = 0.2
_LAST_LINES = 20


def environ_of(store: RunningStore, **settings: str) -> dict[str, str]:
    """What a registry on this store is started with, and nothing else."""
    given = {f"REGISTRY_{name}": value for name, value in settings.items()}
    return {"PATH": "/usr/bin:/bin", **store.environ(), **given}


@dataclass(frozen=True)
class Replica:
    """A registry that serves."""

    process: asyncio.subprocess.Process
    proxy: DeadlyProxy
    client: RegistryClient
    resources: AsyncExitStack

    async def kill(self) -> None:
        """By SIGKILL."""
        await killed(self.process)

    async def close(self) -> None:
        """Kills it, and lets go of what belongs to it."""
        await self.resources.aclose()


class Replicas:
    """Processes on one store; all are killed when the context is left."""

    def __init__(
        self, store: RunningStore, folder: Path, *, ahead: int = 2, settings: Mapping[str, str] | None = None
    ) -> None:
        """Starts none yet.

        Args:
            store: beneath all of them.
            folder: for logs.
            ahead: processes that are started before they are asked for.
            settings: of the registries, beside those that keep them quiet.
        """
        self._store, self._folder, self._ahead = store, folder, ahead
        self._settings = {**QUIET, "LOG_LEVEL": "debug", **(settings or {})}
        self._starting: deque[asyncio.Task[Replica]] = deque()
        self._all = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        self._starting.extend(asyncio.create_task(self._started()) for _ in range(self._ahead))
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await self._all.aclose()

    async def next(self) -> Replica:
        """A fresh one, which has seen nothing yet but what was in the store at its start."""
        self._starting.append(asyncio.create_task(self._started()))
        return await self._starting.popleft()

    async def _started(self) -> Replica:
        resources = AsyncExitStack()
        self._all.push_async_callback(resources.aclose)
        proxy = DeadlyProxy(int(self._store.endpoint.rpartition(":")[2]), ignored=BACKGROUND)
        await resources.enter_async_context(proxy.listening())
        log = self._folder / f"registry-{proxy.port}.log"
        environ = environ_of(self._store, **self._settings, STORE_ENDPOINT=f"127.0.0.1:{proxy.port}")
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.registry", cwd=CHECKOUT, env=environ, stdout=output, stderr=output
            )
        resources.push_async_callback(killed, process)
        async with asyncio.timeout(READY_WITHIN_S):
            address = (await _said(process, log, "server.listening"))["address"]
            channel = await resources.enter_async_context(grpc.aio.insecure_channel(str(address)))
            while not await serves(channel, WRITES):  # noqa: ASYNC110  # it says so to whoever asks
                await asyncio.sleep(0.05)
            await _said(process, log, "catalog.reconciled")
            await proxy.quiet(QUIET_FOR_S)
        return Replica(process, proxy, RegistryClient(channel), resources)


async def serves(channel: grpc.aio.Channel, name: str) -> bool:
    """Whether health says SERVING for a name."""
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)  # type: ignore[attr-defined]  # untyped
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def killed(process: asyncio.subprocess.Process) -> None:
    """Returns once a process has ended, by SIGKILL unless it had."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # Popen's kill looks at the process first, which takes its end away
    await process.wait()


async def _said(process: asyncio.subprocess.Process, log: Path, event: str) -> dict[str, object]:
    """The fields of an event, once it is in a process's log."""
    while True:
        lines = (await asyncio.to_thread(log.read_text)).splitlines()
        if line := next((line for line in lines if f'"event": "{event}"' in line), None):
            return dict(json.loads(line))
        if process.returncode is not None:
            raise RuntimeError("\n".join(["a registry did not start:", *lines[-_LAST_LINES:]]))
        await asyncio.sleep(0.02)
