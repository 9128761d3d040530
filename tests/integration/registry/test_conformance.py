"""A probe has nothing to say against a real store that keeps its word, and is quick about it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.conformance import LEFTOVER_AGE, Findings, Rule, probe
from services.registry.seaweedfs import RunningStore

pytestmark = pytest.mark.integration


def _hours_later() -> datetime:
    return datetime.now(UTC) + 2 * LEFTOVER_AGE


async def test_seaweedfs_is_never_accused_and_what_a_probe_writes_is_taken_away(weed: RunningStore) -> None:
    around, seconds = Surroundings(writer="probe"), []
    async with weed.client() as store:
        for _ in range(5):
            began = time.perf_counter()
            async with probe(store, new_id=around.new_id, wall_clock=around.wall_clock, sleep=around.sleep) as findings:
                seconds.append(time.perf_counter() - began)
            assert findings == Findings(held=tuple(Rule), broken=())
        # On a crowded machine it may still be about a race's loser when all is deleted, and keep what that writes.
        late = await store.keys(layout.PROBES)
        assert [key for key in late if "-race-" not in key] == []
        async with probe(store, new_id=around.new_id, wall_clock=_hours_later, sleep=around.sleep):
            assert not {*late} & {*await store.keys(layout.PROBES)}
    assert min(seconds) < 2, seconds  # the quickest: other tests may have had the machine during one
