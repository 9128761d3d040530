"""The stack that most end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.system import System, running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Started once; a test that kills a part of it starts its own."""
    with running(tmp_path_factory.mktemp("system")) as system:
        yield system
