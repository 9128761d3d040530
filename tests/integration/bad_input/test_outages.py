"""Asking while workers, the registry or the store are not there: the answer comes at once, and names what is amiss."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Brand
from services.registry.seaweedfs import seaweedfs
from services.router.compose import router
from tests.integration.bad_input.adapter_files import STUDIO, good_lora
from tests.integration.bad_input.system import GOOD, System, asked, pictures, router_settings, running

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def without_workers(system: System, registry: str) -> AsyncIterator[System]:
    """The system with another router in front, which no worker has joined."""
    async with (
        router(router_settings(registry)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield replace(system, channels={"router": channel})


async def test_without_a_worker_a_router_says_so_within_a_second(system: System) -> None:
    async with without_workers(system, system.addresses["registry"]) as alone:
        began = time.monotonic()
        error = await alone.refused("router", GOOD)
        took = time.monotonic() - began
    assert (error.code, error.reason) == (UNAVAILABLE, "NO_WORKER")
    assert "no worker has joined" in error.message
    assert took < 1


async def test_without_a_registry_a_router_says_so(system: System) -> None:
    async with without_workers(system, "127.0.0.1:1") as alone:  # nobody listens there
        error = await alone.refused("router", GOOD)
    assert (error.code, error.reason) == (UNAVAILABLE, "REGISTRY_LOST")


@pytest.mark.slow
async def test_while_the_store_is_down_nothing_is_published_and_resolved_brands_keep_painting(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(AsyncExitStack())
        weed = await store.enter_async_context(seaweedfs(tmp_path / "weed"))
        system = await stack.enter_async_context(running(weed, tmp_path / "system", engine="fake"))
        before = await system.generate("router", GOOD)

        await store.aclose()

        calls = {
            "publish": system.publish(good_lora(9), base_digest=STUDIO.digest),
            "publish for another brand": system.publish(good_lora(9), brand="frugal"),
            "a brand's record": system.registry.put_brand(Brand("new")),
            "an alias": system.registry.promote(AdapterRef("acme", "look", 2)),
            "an unknown name": system.registry.resolve(AdapterRef("acme", "never-asked-for")),
            "a list": system.registry.list_adapters(),
        }
        for what, call in calls.items():
            with pytest.raises(LooksmithError) as caught:
                await call
            assert (caught.value.code, caught.value.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE"), what
            assert caught.value.retry_after_s, what
        error = await system.refused("router", asked(brand="never-asked-for"))
        assert (error.code, error.reason) == (UNAVAILABLE, "STORE_UNAVAILABLE")
        assert error.retry_after_s

        resolved = await system.registry.resolve(AdapterRef("acme", "look"))
        assert resolved.version.version == 1
        assert resolved.stale_since
        during = await system.generate("router", GOOD)
        assert (pictures(during)[0] == pictures(before)[0]).all()
        assert during[0].accepted.stale_since.seconds

        await stack.enter_async_context(
            seaweedfs(
                tmp_path / "weed", port=int(weed.endpoint.rpartition(":")[2]), keys=(weed.access_key, weed.secret_key)
            )
        )
        assert await system.listed() == system.published
        published = await system.publish(good_lora(9), base_digest=STUDIO.digest)
        assert published.version.version == 3
        after = await system.generate("router", asked(seed=8))
        assert not after[0].accepted.HasField("stale_since")
