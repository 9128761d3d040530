import pytest

from looksmith.bases import BaseStore, InMemoryBaseStore
from tests.unit.looksmith.bases.base_store_contract import BaseStoreContract


class TestInMemoryBaseStore(BaseStoreContract):
    @pytest.fixture
    def store(self) -> BaseStore:
        return InMemoryBaseStore()
