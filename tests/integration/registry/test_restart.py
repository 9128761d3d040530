"""What benchmarks.restart fills a store with is what registries write, and one that starts on it tells all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import restart
from benchmarks.soundness import unsound
from services.registry.seaweedfs import RunningStore

pytestmark = pytest.mark.integration


async def test_a_registry_that_starts_on_a_filled_store_serves_what_is_in_it(
    weed: RunningStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, small in (("BRANDS", 2), ("ADAPTERS_EACH", 2), ("VERSIONS", 3)):
        monkeypatch.setattr(restart, name, small)
    own = replace(weed, bucket="restarted")
    async with own.client() as store:
        await restart.fill(store)
        assert [await unsound(store, f"brand-00{number}") for number in (0, 1)] == [[], []]
        took = await restart.one_start(own, tmp_path / "registry.log")
    assert 0 < took["restart_serving_s"] <= took["restart_writes_s"]
    assert {"restart_s", "restart_snapshot_s"} < took.keys()
