"""The client against a real server on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from looksmith.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from looksmith.nouns import AdapterRef, Brand
from services.chassis.server import grpc_server
from services.registry.client import RegistryClient
from services.registry.compose import apis
from services.registry.object_store import InMemoryObjectStore
from services.registry.settings import RegistrySettings
from tests.unit.looksmith.lora.lora_files import safetensors, tensor
from tests.unit.registry.parts import a_core, header_for, lora_file
from tests.unit.registry.registry_contract import RegistryContract

SETTINGS = RegistrySettings.read(
    {
        "REGISTRY_STORE_ENDPOINT": "unused:1",
        "REGISTRY_STORE_ACCESS_KEY": "k",
        "REGISTRY_STORE_SECRET_KEY": "s",
        "REGISTRY_SHUTDOWN_GRACE_S": "0",
    }
)


@pytest.fixture
def store() -> InMemoryObjectStore:
    return InMemoryObjectStore()


@pytest.fixture
async def registry(store: InMemoryObjectStore) -> AsyncIterator[RegistryClient]:
    async with (
        grpc_server(SETTINGS, apis(a_core(store))) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield RegistryClient(channel)


class TestRegistryClient(RegistryContract):
    pass


async def test_a_file_of_many_faults_comes_back_with_all_of_them(registry: RegistryClient) -> None:
    """Trailers take 8 KiB; the names of these tensors alone are as long."""
    await registry.put_brand(Brand("acme"))
    faulty = {
        f"unet.{'x' * 200}{i:02}.{half}.weight": tensor([[1.0]]) for i in range(20) for half in ("lora_A", "lora_B")
    }
    data = safetensors(faulty)
    with pytest.raises(InvalidArgument) as caught:
        await registry.publish(header_for(data), [data])
    assert [violation.reason for violation in caught.value.violations] == ["E_MODULE"] * 16


async def test_a_refusal_in_mid_upload_reaches_the_publisher(registry: RegistryClient) -> None:
    await registry.put_brand(Brand("acme"))
    data = b"PK\x03\x04" + bytes(1000)

    def endless() -> Iterator[bytes]:
        yield data
        for _ in range(500):
            yield bytes(1 << 20)

    with pytest.raises(InvalidArgument) as caught:
        await registry.publish(header_for(data), endless)
    assert caught.value.violations[0].reason == "E_MAGIC"


async def test_an_answer_from_memory_says_so_over_the_wire(
    registry: RegistryClient, store: InMemoryObjectStore
) -> None:
    await registry.put_brand(Brand("acme"))
    await registry.publish(header_for(lora_file()), [lora_file()])
    store.reachable = False
    assert (await registry.resolve(AdapterRef("acme", "style"))).stale_since is not None
    with pytest.raises(Unavailable) as caught:
        await registry.resolve(AdapterRef("acme", "other"))
    assert (caught.value.reason, caught.value.retry_after_s) == ("STORE_UNAVAILABLE", 1.0)


async def test_a_deadline_ends_a_call(
    registry: RegistryClient, store: InMemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_arrive", asyncio.Event().wait)
    with pytest.raises(DeadlineExceeded):
        await registry.get_brand("acme", deadline_s=0.1)


async def test_an_early_refusal_is_never_lost(registry: RegistryClient) -> None:
    """grpc.aio loses the status of one in 170 calls that are answered while they write (grpc/grpc#36066)."""
    for _ in range(300):
        with pytest.raises(NotFound):
            await registry.publish(header_for(lora_file()), [lora_file()])


async def test_nobody_listening_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await RegistryClient(channel).get_brand("acme", deadline_s=5)
