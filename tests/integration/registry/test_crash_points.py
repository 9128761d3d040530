"""A registry process killed while it publishes, on a real store; benchmarks.registry does the same at every point."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crash_paths import PATHS
from benchmarks.crash_points import CrashPoints
from benchmarks.deadly_proxy import Side
from benchmarks.replicas import Replicas
from services.registry.seaweedfs import RunningStore

pytestmark = pytest.mark.integration

PUBLISH = next(path for path in PATHS if path.name == "publish a next version")


async def test_a_registry_killed_around_its_writes_leaves_the_version_whole_or_not_there(
    weed: RunningStore, tmp_path: Path
) -> None:
    async with weed.client() as store, Replicas(weed, tmp_path, ahead=1) as replicas:
        points = CrashPoints(store, replicas)
        recording = await points.record(PUBLISH, remembered=True)
        writes = [number for number, call in enumerate(recording.calls, 1) if call.startswith("PUT ")]
        assert [recording.calls[number - 1].split("/")[0] for number in writes] == ["PUT blobs", "PUT a"]
        for number, side in ((writes[0], Side.AFTER), (writes[1], Side.BEFORE), (writes[1], Side.AFTER)):
            assert await points.faults_at(recording, number, side) == []
