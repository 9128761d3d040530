"""Has adapters brought to the further homes of brands before they are needed there.

Tells workers and forgets; what is brought in vain is theirs to evict. How many homes there are is demand.py's business,
and what becomes of a leaving worker's adapters handover.py's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from looksmith.nouns import Tier
from services.router.fleet import Fleet, WorkerView
from services.router.members import Prefetch, WorkerState
from services.router.placement import Job, hash_order, unfit

#: Seconds after which a worker that still lacks an adapter is told again.
TOLD_AGAIN_S = 600.0


class Warmth:
    """``clock`` is the fleet's."""

    def __init__(self, *, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet, self._clock = fleet, clock
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()  # worker and digest, the longest ago first

    def keep(self, job: Job, homes: int, *, planned: str) -> None:
        """Sees to it that the first ``homes`` workers of a brand hold what its job needs, on disk at least.

        The one where it is ``planned`` brings its adapters itself, as part of the job, where a trace shows it.
        """
        for name in hash_order(job.brand, self._fleet.snapshot())[:homes]:
            view = self._fleet.find(name) if name != planned else None
            if view and view.state is WorkerState.READY and not unfit(job, view, ()):
                self._tell(job, view)

    def _tell(self, job: Job, view: WorkerView) -> None:
        now = self._clock()
        for digest in job.digests:
            about = (view.name, digest)
            if view.tier(digest) is not Tier.STORE or now - self._told.get(about, -TOLD_AGAIN_S) < TOLD_AGAIN_S:
                continue
            self._told.pop(about, None)
            self._told[about] = now
            self._fleet.tell(view.name, Prefetch(job.brand, digest))
        while self._told and now - next(iter(self._told.values())) >= TOLD_AGAIN_S:
            self._told.popitem(last=False)
