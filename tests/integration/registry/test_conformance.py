"""A probe has nothing to say against a real store that keeps its word, and is quick about it."""

from __future__ import annotations

import time

import pytest

from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.conformance import Findings, Rule, probe
from services.registry.seaweedfs import RunningStore

pytestmark = pytest.mark.integration


async def test_seaweedfs_is_never_accused_and_nothing_is_left_in_it(weed: RunningStore) -> None:
    around, seconds = Surroundings(writer="probe"), []
    async with weed.client() as store:
        for _ in range(5):
            began = time.perf_counter()
            async with probe(store, new_id=around.new_id, wall_clock=around.wall_clock, sleep=around.sleep) as findings:
                seconds.append(time.perf_counter() - began)
            assert findings == Findings(held=tuple(Rule), broken=())
        assert await store.keys(layout.PROBES) == []
    assert min(seconds) < 2, seconds  # the quickest: other tests may have had the machine during one
