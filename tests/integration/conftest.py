"""One object store for all integration tests of a run: a SeaweedFS of its own, or the one that variables name.

LOOKSMITH_TEST_STORE=HOST:PORT, with LOOKSMITH_TEST_STORE_ACCESS_KEY and LOOKSMITH_TEST_STORE_SECRET_KEY, runs them all
against any store with the S3 API, in buckets of their own, which are left there.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.registry.seaweedfs import RunningStore, seaweedfs

STORE = "LOOKSMITH_TEST_STORE"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def weed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStore]:
    if endpoint := os.environ.get(STORE):
        access_key, secret_key = (os.environ.get(f"{STORE}_{key}", "") for key in ("ACCESS_KEY", "SECRET_KEY"))
        store = RunningStore(endpoint, access_key, secret_key, bucket=f"looksmith-test-{uuid.uuid4().hex[:8]}")
        async with store.client():
            yield store
        return
    async with seaweedfs(tmp_path_factory.mktemp("weed")) as store:
        yield store
