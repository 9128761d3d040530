from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
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


@pytest.fixture
def bank(base: Path, tmp_path: Path) -> Iterator[BankEngine]:
    reference = ReferenceEngine([tiny.tiny_recipe(base)], device="cpu", threads=1, slots=8, clock=steady_clock())
    compiled = tmp_path / "compiled"
    engine = BankEngine(
        reference, slots={8: 8, 32: 8}, batch_sizes=(1, 2, 4), compiled=compiled, compiled_bytes=1 << 30
    )
    engine.load()
    yield engine
    engine.close()
