from __future__ import annotations

import pytest

from benchmarks.reduced_bases import World


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The recipes that ship for Stable Diffusion 1.5, on reduced bases. Nobody's to change."""
    return World("sd15", tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> World:
    """As sd15, of SDXL."""
    return World("sdxl", tmp_path_factory.mktemp("sdxl"))
