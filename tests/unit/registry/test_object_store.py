import pytest

from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.object_store import InMemoryObjectStore, ObjectStore
from tests.unit.registry.object_store_contract import ObjectStoreContract


class TestInMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return InMemoryObjectStore()


async def test_fails_as_a_lost_network_while_it_is_switched_off() -> None:
    store = InMemoryObjectStore()
    store.reachable = False
    with pytest.raises(StoreUnavailable):
        await store.create_if_absent("k", b"")
    store.reachable = True
    assert await store.get("k") is None


async def test_streaming_what_is_missing_is_refused() -> None:
    with pytest.raises(StoreRefused):
        [piece async for piece in InMemoryObjectStore().stream("nothing")]
