"""One object store for all integration tests of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.registry.seaweedfs import RunningStore, seaweedfs


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def weed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStore]:
    async with seaweedfs(tmp_path_factory.mktemp("weed")) as store:
        yield store
