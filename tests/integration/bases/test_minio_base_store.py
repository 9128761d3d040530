"""The store of bases keeps its contract on a real server, and says what is wrong when there is none."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from looksmith.bases import BaseStore, StoreSettings, StoreUnavailable, open_store
from looksmith.bases.errors import BucketNotFound, StoreDenied
from services.registry.seaweedfs import RunningStore
from tests.unit.looksmith.bases.base_store_contract import BaseStoreContract

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(weed: RunningStore) -> StoreSettings:
    return StoreSettings(weed.endpoint, weed.access_key, weed.secret_key, weed.bucket)


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[BaseStore]:
    with open_store(settings) as store:
        yield store


class TestMinioBaseStore(BaseStoreContract):
    pass


def test_wrong_keys_and_a_missing_bucket_are_told_apart(settings: StoreSettings) -> None:
    with open_store(replace(settings, access_key="nobody")) as store, pytest.raises(StoreDenied):
        store.listing("bases/")
    with open_store(replace(settings, bucket="no-such-bucket")) as store:
        with pytest.raises(BucketNotFound, match="no-such-bucket"):
            store.listing("bases/")
        with pytest.raises(BucketNotFound):
            store.get("bases/x")


def test_a_store_that_is_not_up_is_unavailable_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
        with (
            open_store(StoreSettings(endpoint)) as store,
            pytest.raises(StoreUnavailable, match=f"{endpoint}: connection refused"),
        ):
            store.put("k", io.BytesIO(b"-"), 1)
