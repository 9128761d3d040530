"""What a worker that leaves hands over: the next in line fetch the adapters that were in use, before they are asked.

Notices by the fleet's reports that a worker drains or is reset, whoever told it to; jobs under way are left where they
are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from looksmith.nouns import Tier
from services.chassis.painting import Settled
from services.router.fleet import Fleet, FleetSnapshot, WorkerView
from services.router.members import Prefetch, WorkerState
from services.router.placement import hash_order

log = structlog.get_logger()

#: Adapters that one worker is told to fetch, the newest first: as many as it takes in at once.
MOST_A_WORKER = 16


class Handover:
    """Is told what changes in the fleet. ``recent`` gives the requests of the last minutes, the newest first."""

    def __init__(self, *, fleet: Fleet, recent: Callable[[], Iterable[Settled]]) -> None:
        self._fleet, self._recent = fleet, recent
        self._leaving: set[str] = set()

    def on_change(self, name: str) -> None:
        """Has a worker hand over that has just begun to drain, or to be reset. For Fleet.watch."""
        view = self._fleet.find(name)
        if view is None or not (view.heartbeat.draining or view.heartbeat.resetting):
            self._leaving.discard(name)
        elif name not in self._leaving:
            self._leaving.add(name)
            left = heirs(view, self._fleet.snapshot(), self._recent())
            for heir, prefetch in left:
                self._fleet.tell(heir, prefetch)
            log.info("worker.handed_over", worker=name, adapters=len(left))


def heirs(leaving: WorkerView, fleet: FleetSnapshot, recent: Iterable[Settled]) -> list[tuple[str, Prefetch]]:
    """Who is to fetch what ``leaving`` holds in memory and ``recent`` requests used: the first that can, by brand."""
    views = {view.name: view for view in fleet.workers if view.name != leaving.name}
    told: Counter[str] = Counter()
    left: list[tuple[str, Prefetch]] = []
    seen: set[tuple[str, str]] = set()
    for settled in recent:
        brand = settled.request.brand
        held = {adapter.digest for adapter in settled.adapters if leaving.tier(adapter.digest) <= Tier.HOST}
        used = sorted(digest for digest in held if (brand, digest) not in seen)
        if not used:
            continue
        seen.update((brand, digest) for digest in used)
        heir = next((views[name] for name in hash_order(brand, fleet) if _can(views.get(name), settled)), None)
        if heir is None:
            continue
        for digest in used:
            if heir.tier(digest) > Tier.HOST and told[heir.name] < MOST_A_WORKER:
                told[heir.name] += 1
                left.append((heir.name, Prefetch(brand, digest)))
    return left


def _can(view: WorkerView | None, settled: Settled) -> bool:
    return view is not None and view.state is WorkerState.READY and view.recipe(settled.recipe.digest) is not None
