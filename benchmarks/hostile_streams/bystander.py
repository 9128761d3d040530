"""Somebody who only wants a picture and has something to publish, once a second, whatever others do to the servers.

Notes what became of it; knows nothing of attacks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from benchmarks.fuzzing.adapter_files import small_file
from looksmith.client import Looksmith
from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

NAME = "bystander"
EVERY_S, WITHIN_S = 1.0, 30.0


@dataclass
class Noted:
    """Seconds that each took that went well, and what was told of the others."""

    pictures: list[float] = field(default_factory=list)
    publications: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Bystander:
    """At one registry and one router, over connections of its own."""

    def __init__(self, *, registry: str, router: str) -> None:
        self._registry, self._router = registry, router
        self._number = 0
        self._busy = asyncio.Lock()
        self._paused = False
        self.noted = Noted()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """From entry to exit, the first time before this returns; what is under way then is waited for."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(self._registry, options=options) as channel:
            registry = RegistryClient(channel)
            await registry.put_brand(Brand(NAME, default_adapters=(AdapterUse("look"),)))
            async with Looksmith([self._router]) as client:
                await self._once(registry, client)
                task = asyncio.create_task(self._go_on(registry, client))
                try:
                    yield
                finally:
                    await self.pausing()
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def pausing(self) -> None:
        """Returns once nothing of its is under way, nor will be until ``go_on``."""
        if not self._paused:
            await self._busy.acquire()
            self._paused = True

    def go_on(self) -> None:
        self._busy.release()
        self._paused = False

    async def _go_on(self, registry: RegistryClient, client: Looksmith) -> None:
        while True:
            async with self._busy:
                await self._once(registry, client)
            await asyncio.sleep(EVERY_S)

    async def _once(self, registry: RegistryClient, client: Looksmith) -> None:
        """One after the other: the picture is of the version that has just been published."""
        self._number += 1
        file = small_file({}, {"note": str(self._number)})
        digest, size = measured([file])
        header = PublishHeader(NAME, "look", "studio", digest, size, aliases=("production",))
        asked = pb.GenerateRequest(brand=NAME, prompt="a red apple", seed=self._number)
        await self._noted(self.noted.publications, registry.publish(header, [file], deadline_s=WITHIN_S))
        await self._noted(self.noted.pictures, client.paint(asked, timeout_s=WITHIN_S))

    async def _noted(self, well: list[float], work: Awaitable[object]) -> None:
        began = time.monotonic()
        try:
            await work
        except LooksmithError as error:
            self.noted.failures.append(f"{error.reason}: {error.message}")
        else:
            well.append(time.monotonic() - began)
