"""A short siege: real processes under hostile streams stay, answer, and put everything away."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile_streams.doors import doors
from benchmarks.hostile_streams.siege import ATTACKS, BARS, siege
from benchmarks.observed_stack import observed_stack
from services.registry.seaweedfs import RunningStore

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

STREAMS = 300


async def test_servers_outlive_hostile_streams_and_a_bystander_is_served_all_the_while(
    weed: RunningStore, tmp_path: Path
) -> None:
    store = weed.beside("hostile-streams")
    settings = {"WORKER_ENGINE": "fake", "ROUTER_DEFAULT_RECIPE": "studio"}
    async with observed_stack(tmp_path, workers=1, settings=settings, on=store) as stack:
        registry, router, worker = (each.process for each in stack.all)
        attacked = doors(registry=registry.address, router=router.address, worker=worker.address)
        async with attacked as found:
            figures, noted, bystander = await siege(found, stack.all, streams=STREAMS, seed=3)
        internal = [said["method"] for each in stack.all for said in each.process.said("call.failed")]
    assert figures["streams"] >= STREAMS
    assert len(noted.streams) > len(ATTACKS) // 2
    assert bystander.noted.failures == []
    assert internal == []
    short = {name: figures[name] for name, (_, most) in BARS.items() if figures[name] > most}
    assert short == {}, noted.left
