from __future__ import annotations

from pathlib import Path

from looksmith.nouns import Tier
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.costs import StepTimes, Work
from services.gpu_worker.heartbeats import Heartbeats, changes
from services.gpu_worker.painter import Painter
from tests.unit.gpu_worker.worker_parts import FilesRegistry, adapter_tiers, content


def test_changes_say_what_moved_what_came_and_what_is_gone() -> None:
    before = {"a": Tier.HOST, "b": Tier.DISK, "c": Tier.DISK}
    now = {"a": Tier.DEVICE, "b": Tier.DISK, "d": Tier.HOST}
    assert changes(before, now) == {"a": Tier.DEVICE, "c": Tier.STORE, "d": Tier.HOST}


async def test_first_heartbeat_is_full_later_ones_say_what_changed_and_a_resync_starts_over(tmp_path: Path) -> None:
    registry = FilesRegistry()
    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry) as (tiers, thread):
        painter = Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=4, clock=steady_clock())
        heartbeats = Heartbeats(painter=painter, tiers=tiers)
        first = heartbeats.next()
        assert (first.sequence, first.full, first.residency, first.slots) == (1, True, {}, 6)
        await tiers.bring(tiers.lease("acme", [digest]))
        second = heartbeats.next()
        assert (second.sequence, second.full, second.residency) == (2, False, {digest: Tier.HOST})
        assert (second.host_bytes, second.disk_bytes) == (100, 100)
        assert heartbeats.next().residency == {}
        heartbeats.resync()
        again = heartbeats.next()
        assert (again.sequence, again.full, again.residency) == (4, True, {digest: Tier.HOST})
        painter.drain()
        assert heartbeats.next().draining


async def test_says_what_a_step_takes_in_every_batch_that_was_seen(tmp_path: Path) -> None:
    async with adapter_tiers(tmp_path, FilesRegistry()) as (tiers, thread):
        painter = Painter(name="w1", engine_thread=thread, tiers=tiers, max_queued=4, clock=steady_clock())
        for rows, took_s in ((4, 2.0), (1, 1.0)):
            steps = StepTimes()
            steps.add(took_s, batch_rows=rows, own_rows=1)
            painter.costs.observe(Work("studio", 16, 16, steps=1, images=1), steps, total_s=took_s / rows + 0.5)
        said = Heartbeats(painter=painter, tiers=tiers).next().costs
    assert [(cost.rows, cost.step_seconds, cost.fixed_seconds) for cost in said] == [(1, 1.0, 0.5), (4, 2.0, 0.5)]
