"""Registry, router and worker in one process on real ports, under mutual TLS and with tokens: nothing is plaintext.

Beside them the certificates and tokens of those who may come in, and of those who may not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from looksmith.channel import dial
from looksmith.nouns import Action, AdapterRef, AdapterUse, Brand
from services.chassis.channel import open_channel
from services.chassis.server import RunningServer
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import RegistryClient
from services.registry.compose import registry_on
from services.registry.object_store import InMemoryObjectStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.chassis.authority import Authority, Files
from tests.unit.chassis.token_files import ALL, tokens_file
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.registry.parts import TABLE, header_for, lora_file

#: Who may do what; the token is the name, but that of KEDA, which shows a certificate.
TOKENS: tuple[tuple[str, Iterable[str], Iterable[str]], ...] = (
    ("token-of-acme", ALL, ["acme"]),
    ("token-of-bolt", ALL, ["bolt"]),
    ("token-of-all", ALL, ["*"]),
    ("token-of-router", [Action.READ, Action.GENERATE], ["*"]),
    ("token-of-worker", [Action.READ, Action.SERVE], ["*"]),
    ("keda.keda.svc", [Action.OPERATE], ["*"]),
)
HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Secured:
    """The running system. ``servers`` are registry, router and worker by name."""

    ca: Authority
    caller: Files
    store: InMemoryObjectStore
    folder: Path
    servers: dict[str, RunningServer] = field(default_factory=dict)

    def dial(
        self, server: str, credentials: grpc.ChannelCredentials | None = None, *, plaintext: bool = False
    ) -> grpc.aio.Channel:
        """With the certificate of a caller that has no other name, unless told otherwise."""
        shown = None if plaintext else credentials or self.ca.credentials(self.caller)
        return dial(self.servers[server].address, credentials=shown)

    @asynccontextmanager
    async def fleet(self, token: str = "token-of-all") -> AsyncIterator[FleetClient]:  # noqa: S107  # no secret
        credentials = self.ca.credentials(self.caller)
        async with FleetClient.connect(self.servers["router"].address, token=token, credentials=credentials) as fleet:
            yield fleet


@asynccontextmanager
async def secured_system(folder: Path) -> AsyncIterator[Secured]:
    """Brands acme, with the adapter "style" in versions 1 and 2, and bolt; worker w1 has joined."""
    ca = Authority(folder)
    tokens = tokens_file(folder, *TOKENS, certificates=["keda.keda.svc"])
    system = Secured(ca, ca.issue("caller"), InMemoryObjectStore(), folder)

    def secured(prefix: str) -> dict[str, str]:
        mine = ca.issue(prefix.lower(), *HOSTS)
        given = {
            "TLS_CERT": mine.certificate, "TLS_KEY": mine.key, "TLS_CLIENT_CA": ca.ca, "TLS_CA": ca.ca,
            "TOKENS": tokens, "NAME": prefix.lower(), "SHUTDOWN_GRACE_S": 0,
        }  # fmt: skip
        return {f"{prefix}_{name}": str(value) for name, value in given.items()}

    store = {f"REGISTRY_STORE_{name}": "unused" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")}
    async with AsyncExitStack() as stack:
        keeping = RegistrySettings.read(secured("REGISTRY") | store)
        kept = await stack.enter_async_context(registry_on(system.store, keeping, {"tiny": TABLE}))
        routing = RouterSettings.read(
            secured("ROUTER")
            | {
                "ROUTER_REGISTRY": kept.address,
                "ROUTER_REGISTRY_TOKEN": "token-of-router",
                "ROUTER_WORKER_TOKEN": "token-of-router",
            }
        )
        front = await stack.enter_async_context(router(routing))
        painting = WorkerSettings.read(
            secured("WORKER")
            | {
                "WORKER_REGISTRY": kept.address,
                "WORKER_REGISTRY_TOKEN": "token-of-worker",
                "WORKER_ROUTERS": front.address,
                "WORKER_ROUTER_TOKEN": "token-of-worker",
                "WORKER_DISK_CACHE": str(folder / "cache"),
            }
        )
        engine = FakeEngine([facts(family="tiny")])
        painter = await stack.enter_async_context(gpu_worker(painting, engine=engine))
        system.servers.update(registry=kept, router=front, worker=painter)
        mine = ca.credentials(system.caller)
        async with open_channel(kept.address, token="token-of-all", credentials=lambda: mine) as channel:  # noqa: S106  # no secret
            client = RegistryClient(channel)
            await client.put_brand(Brand("acme", default_adapters=(AdapterUse("style"),)))
            await client.put_brand(Brand("bolt"))
            for note in ("1", "2"):
                data = lora_file(note)
                await client.publish(header_for(data), [data])
            await client.promote(AdapterRef("acme", "style", 2))
        async with system.fleet() as fleet, asyncio.timeout(10):
            while not await fleet.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        yield system
