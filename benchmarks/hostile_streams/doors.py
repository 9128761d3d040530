"""The servers that are attacked, and what each of them serves. Knows where they are, not how they came there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import grpc

from services.chassis.permissions import PERMISSIONS

_SERVED: Mapping[str, tuple[str, ...]] = {
    "registry": ("AdapterRegistryService", "BrandService", "RegistryAdminService"),
    "router": ("ImageGenerationService", "FleetService", "ExternalScaler"),
    "worker": ("ImageGenerationService",),
}


@dataclass(frozen=True)
class Door:
    """One server. ``name`` is its kind."""

    name: str
    address: str
    channel: grpc.aio.Channel

    @property
    def host(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    @property
    def methods(self) -> list[str]:
        """Full names of its RPCs."""
        return [rpc for rpc in PERMISSIONS if rpc.split("/")[1].rpartition(".")[2] in _SERVED[self.name]]


@dataclass(frozen=True)
class Doors:
    registry: Door
    router: Door
    worker: Door

    @property
    def all(self) -> tuple[Door, Door, Door]:
        return self.registry, self.router, self.worker

    def any(self, draws: Random) -> Door:
        return draws.choice(self.all)


#: So that the connection is an attacker's own, not one that all channels of a process share; and sends what it likes.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))


@asynccontextmanager
async def doors(*, registry: str, router: str, worker: str) -> AsyncIterator[Doors]:
    """By their addresses."""
    async with AsyncExitStack() as stack:

        async def door(name: str, address: str) -> Door:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            return Door(name, address, await stack.enter_async_context(channel))

        yield Doors(await door("registry", registry), await door("router", router), await door("worker", worker))
