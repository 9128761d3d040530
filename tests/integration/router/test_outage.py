"""A registry that goes away and comes back, over real gRPC: what paints meanwhile, what is refused, and how fast."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import grpc
import pytest

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.nouns import AdapterRef, AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.server import grpc_server
from services.registry.client import FakeRegistryClient, RegistryClient
from services.registry.commit_log import Surroundings
from services.registry.compose import apis
from services.registry.core import Core, assemble
from services.registry.fake_client import TrustingJudge
from services.registry.object_store import InMemoryObjectStore
from services.registry.settings import RegistrySettings
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import joined_worker
from tests.unit.registry.parts import header_for

pytestmark = pytest.mark.integration

SETTINGS = RegistrySettings.read(
    {
        "REGISTRY_STORE_ENDPOINT": "unused:1",
        "REGISTRY_STORE_ACCESS_KEY": "k",
        "REGISTRY_STORE_SECRET_KEY": "s",
        "REGISTRY_SHUTDOWN_GRACE_S": "0",
    }
)


async def furnished() -> tuple[Core, FakeRegistryClient]:
    """A registry of two brands with two versions each, and a way into it that needs no server."""
    core = assemble(
        store=InMemoryObjectStore(), judging=TrustingJudge, around=Surroundings(writer="test"), head_max_age_s=0
    )
    within = FakeRegistryClient(core=core)
    for brand in ("acme", "zenith"):
        await within.put_brand(Brand(brand, default_adapters=(AdapterUse("look"),)))
        for note in ("1", "2"):
            data = f"{brand} {note}".encode()
            await within.publish(header_for(data, brand=brand, adapter="look", family="studio"), [data])
    return core, within


async def test_resolved_brands_are_painted_without_a_registry_and_promotions_are_seen_once_it_is_back() -> None:
    core, within = await furnished()
    async with AsyncExitStack() as life:
        serving = await life.enter_async_context(AsyncExitStack())
        registry = await serving.enter_async_context(grpc_server(SETTINGS, apis(core)))
        settings = RouterSettings(name="r1", registry=registry.address, shutdown_grace_s=0)
        server = await life.enter_async_context(router(settings))
        await life.enter_async_context(joined_worker(server.address, "w1"))
        channel = await life.enter_async_context(grpc.aio.insecure_channel(server.address))
        stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)

        async def accepted(brand: str) -> pb.Accepted:
            first, *_ = [r async for r in stub.Generate(pb.GenerateRequest(brand=brand, prompt="x"), timeout=10)]
            return first.accepted

        async def refusal(brand: str) -> LooksmithError:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await accepted(brand)
            return error_from_rpc(caught.value)

        assert not (await accepted("acme")).HasField("stale_since")
        confirmed = time.time()
        await serving.aclose()

        took = []
        for _ in range(20):
            began = time.monotonic()
            during = await accepted("acme")
            took.append(time.monotonic() - began)
            assert [adapter.version for adapter in during.adapters] == [1]
            assert during.stale_since.ToMilliseconds() / 1e3 == pytest.approx(confirmed, abs=5)
        assert sorted(took)[10] < 0.5
        error = await refusal("zenith")
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_LOST")
        assert error.retry_after_s

        await within.promote(AdapterRef("acme", "look", 2))
        port = int(registry.address.rpartition(":")[2])
        again = await life.enter_async_context(grpc_server(SETTINGS.model_copy(update={"port": port}), apis(core)))
        back = await life.enter_async_context(grpc.aio.insecure_channel(again.address))
        assert (await RegistryClient(back).get_brand("acme")).name == "acme"
        async with asyncio.timeout(10):
            while (after := await accepted("acme")).HasField("stale_since"):  # noqa: ASYNC110  # nobody tells when it is back
                await asyncio.sleep(0.05)
        assert [adapter.version for adapter in after.adapters] == [2]
        assert [adapter.version for adapter in (await accepted("zenith")).adapters] == [1]
