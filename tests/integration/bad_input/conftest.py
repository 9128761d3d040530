from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.registry.seaweedfs import RunningStore
from tests.integration.bad_input.system import System, running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(weed: RunningStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running(weed.beside("bad-input"), tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def unharmed(system: System) -> AsyncIterator[None]:
    """After every test of this folder all servers serve, and the store and its list hold what they held before."""
    before = await asyncio.to_thread(system.objects)
    yield
    async with asyncio.timeout(5):
        while system.unfinished():  # noqa: ASYNC110  # a call that was given up is tidied away a moment later
            await asyncio.sleep(0.02)
    assert await system.healthy()
    assert await asyncio.to_thread(system.objects) == before
    assert await system.listed() == system.published
