"""A registry that asks for tokens, on a real store: publishers, a router and a worker that show theirs, and others."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from looksmith.client import Looksmith
from looksmith.errors import PermissionDenied, Unauthenticated
from looksmith.lora import table_to_json
from looksmith.nouns import AdapterRef, AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.chassis.channel import open_channel
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import RegistryClient
from services.registry.compose import registry
from services.registry.seaweedfs import RunningStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.registry.parts import TABLE, header_for, lora_file

pytestmark = pytest.mark.integration

TOKENS = {
    "owner": ('["read", "publish", "promote", "manage"]', '["acme"]'),
    "stranger": ('["read", "publish", "promote", "manage"]', '["bolt"]'),
    "fleet": ('["read"]', '["*"]'),
}


async def test_a_brand_is_published_and_painted_by_those_whose_tokens_allow_it_and_by_no_others(
    weed: RunningStore, tmp_path: Path
) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "tiny.json").write_text(table_to_json(TABLE))
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        "\n".join(
            f'[[token]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
            f"actions = {actions}\nbrands = {brands}"
            for name, (actions, brands) in TOKENS.items()
        )
    )
    async with AsyncExitStack() as stack:
        settings = RegistrySettings.read(
            {
                **weed.beside("tokens").environ(),
                "REGISTRY_BASES": str(tmp_path / "bases"),
                "REGISTRY_TOKENS": str(tokens),
                "REGISTRY_SHUTDOWN_GRACE_S": "0",
            }
        )
        served = await stack.enter_async_context(registry(settings))

        async def client(token: str) -> RegistryClient:
            return RegistryClient(await stack.enter_async_context(open_channel(served.address, token=token)))

        # 1. Publishing
        owner, stranger, nobody = await client("owner"), await client("stranger"), await client("")
        data = lora_file()
        await owner.put_brand(Brand("acme", default_adapters=(AdapterUse("style"),)))
        published = await owner.publish(header_for(data), [data])
        for other, refusal in ((stranger, PermissionDenied), (nobody, Unauthenticated)):
            with pytest.raises(refusal):
                await other.publish(header_for(data), [data])
            with pytest.raises(refusal):
                await other.resolve(AdapterRef("acme", "style"))
            with pytest.raises(refusal):
                [_ async for _ in other.download("acme", published.version.digest)]

        move = await owner.set_alias("acme", "style", "next", 1)
        events = (await owner.history("acme", "style")).items
        assert [(event.seq, event.actor) for event in events] == [(move.seq, "owner"), (1, "owner")]

        # 2. Painting
        front = await stack.enter_async_context(
            router(
                RouterSettings.read(
                    {
                        "ROUTER_NAME": "r1",
                        "ROUTER_REGISTRY": served.address,
                        "ROUTER_REGISTRY_TOKEN": "fleet",
                        "ROUTER_SHUTDOWN_GRACE_S": "0",
                    }
                )
            )
        )
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": served.address,
                "WORKER_REGISTRY_TOKEN": "fleet",
                "WORKER_ROUTERS": front.address,
                "WORKER_DISK_CACHE": str(tmp_path / "cache"),
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        await stack.enter_async_context(gpu_worker(painting, engine=FakeEngine([facts(family="tiny")])))
        looksmith = await stack.enter_async_context(Looksmith([front.address]))
        look = await stack.enter_async_context(FleetClient.connect(front.address))
        async with asyncio.timeout(10):
            while not await look.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        painted = await looksmith.paint(pb.GenerateRequest(brand="acme", prompt="a kite", steps=1), timeout_s=30)
        assert len(painted.images) == 1
        assert painted.accepted.adapters[0].digest == published.version.digest
