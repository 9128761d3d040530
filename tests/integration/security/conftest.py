from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.security.secured_system import Secured, secured_system


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured_system(tmp_path_factory.mktemp("secured")) as running:
        yield running
