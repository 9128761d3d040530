import pytest

from looksmith.errors import Unavailable
from looksmith.nouns import AdapterRef, Brand
from services.registry.client import FakeRegistryClient
from tests.unit.registry.parts import header_for
from tests.unit.registry.registry_contract import RegistryContract


class TestFakeRegistryClient(RegistryContract):
    @pytest.fixture
    def registry(self) -> FakeRegistryClient:
        return FakeRegistryClient()


async def test_takes_any_bytes_of_any_family() -> None:
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme"))
    published = await registry.publish(header_for(b"not a LoRA", family="sdxl"), [b"not a ", b"LoRA"])
    assert published.version.manifest.family == "sdxl"


async def test_its_store_can_be_switched_off() -> None:
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme"))
    await registry.publish(header_for(b"bytes"), [b"bytes"])
    registry.store.reachable = False
    assert (await registry.resolve(AdapterRef("acme", "style"))).stale_since is not None
    with pytest.raises(Unavailable):
        await registry.resolve(AdapterRef("acme", "other"))
