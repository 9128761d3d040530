"""Ends attempts at workers that are gone without their connection telling: stopped, hung, or out of reach.

A connection that breaks is noticed by its stream; this is for those that stand. Knows what workers report, when they
last said anything and when a caller last took it; what becomes of the request is dispatch's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.router.attempt import Attempt
from services.router.errors import WorkerLost, WorkerStalled
from services.router.fleet import Fleet

#: Seconds between two looks.
EVERY_S = 0.25
#: A caller that takes nothing for so long keeps no room at its worker, which paints on without being read.
CALLER_STALLS_S = 2.0


class Watchdog:
    """A worker must report, or at least go on with the stream, within its lease; and its engine must get on.

    Whether an engine gets on is for its worker to say, who knows how long a step takes there. An attempt is never ended
    for being slow: on a starved machine everything is.
    """

    def __init__(self, *, fleet: Fleet, lease_s: float, clock: Callable[[], float]) -> None:
        self._fleet, self._lease_s, self._clock = fleet, lease_s, clock
        self._attempts: set[Attempt] = set()

    @contextmanager
    def watching(self, attempt: Attempt) -> Iterator[None]:
        self._attempts.add(attempt)
        try:
            yield
        finally:
            self._attempts.discard(attempt)

    @asynccontextmanager
    async def running(self, also: Callable[[], None]) -> AsyncIterator[None]:
        """Looks now and then from entry to exit, and calls ``also`` each time."""

        async def look() -> None:
            while True:
                await asyncio.sleep(EVERY_S)
                self.look()
                also()

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def look(self) -> None:
        now = self._clock()
        for attempt in list(self._attempts):
            if attempt.telling_since is not None and now - attempt.telling_since > CALLER_STALLS_S:
                attempt.free_room()
            view = self._fleet.find(attempt.worker)
            if view and view.heartbeat.stalled_s:
                attempt.give_up(WorkerStalled(attempt.worker, view.heartbeat.stalled_s))
            elif view is None and now - attempt.last_word > self._lease_s:
                attempt.give_up(WorkerLost(attempt.worker, f"it has said nothing for {self._lease_s:g} s"))
