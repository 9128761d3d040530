"""What a worker reports of itself, numbered, whole at first and then by what changed. Pure but for reading the worker.

Knows nothing about routers, sessions or when a heartbeat is due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from looksmith.nouns import Tier
from services.gpu_worker.machine import Machine
from services.gpu_worker.painter import Painter
from services.gpu_worker.tiers import AdapterTiers
from services.router.client import BookedWork, Heartbeat, MeasuredCost, WorkerFault, WorkerReset


class Heartbeats:
    """The heartbeats of one session: each knows what the ones before it have said. ``reset`` gives the newest one."""

    def __init__(
        self,
        *,
        painter: Painter,
        tiers: AdapterTiers,
        machine: Machine | None = None,
        reset: Callable[[], WorkerReset | None] = lambda: None,
    ) -> None:
        self._painter, self._tiers, self._machine, self._reset = painter, tiers, machine, reset
        self._sequence = 0
        self._said: Mapping[str, Tier] | None = None  # None: the next one says everything

    @property
    def sequence(self) -> int:
        """Number of the last one."""
        return self._sequence

    def resync(self) -> None:
        """Lets the next heartbeat say everything."""
        self._said = None

    def next(self) -> Heartbeat:
        painter, tiers, machine = self._painter, self._tiers, self._machine
        self._sequence += 1
        residency = tiers.residency()
        full = self._said is None
        said = residency if self._said is None else changes(self._said, residency)
        self._said = residency
        return Heartbeat(
            sequence=self._sequence,
            full=full,
            residency=said,
            queued_jobs=painter.queued_jobs,
            running_jobs=painter.running_jobs,
            booked=tuple(BookedWork(b.router, b.gpu_seconds, b.last_request_id) for b in painter.booked()),
            draining=painter.draining,
            slots=tiers.slots,
            slots_used=tiers.slots_used,
            host_bytes=tiers.host_bytes,
            disk_bytes=tiers.disk_bytes,
            costs=tuple(
                MeasuredCost(c.recipe, (c.width, c.height), c.rows, c.step_s, c.fixed_s) for c in painter.costs.known()
            ),
            last_errors=tuple(WorkerFault(m.time, m.reason, m.message) for m in painter.mishaps),
            stalled_s=painter.stalled_s(),
            time=machine.now() if machine else None,
            reset=self._reset(),
            disk_free_bytes=machine.disk_free() if machine else None,
            memory_free_bytes=machine.memory_free() if machine else None,
            waiting_for_memory=tiers.waiting_for_memory,
        )


def changes(before: Mapping[str, Tier], now: Mapping[str, Tier]) -> dict[str, Tier]:
    """What to say to someone who knows ``before``; an adapter that is gone is at Tier.STORE."""
    gone = dict.fromkeys(before.keys() - now.keys(), Tier.STORE)
    return {digest: tier for digest, tier in now.items() if before.get(digest) is not tier} | gone
