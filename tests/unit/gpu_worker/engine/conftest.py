from __future__ import annotations

from pathlib import Path

import pytest

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def reference(base: Path) -> ReferenceEngine:
    engine = ReferenceEngine([tiny.tiny_recipe(base)], device="cpu", threads=1, slots=8, clock=steady_clock())
    engine.load()
    return engine
