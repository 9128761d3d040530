"""Where requests wait while no worker is there at all, not even one that would say what can be painted.

Ends with the first worker that joins; requests that wait for a worker of their own kind wait in the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from services.chassis.painting_events import Queued
from services.router.fleet import Fleet

#: A caller whose request waits, here or in the queue, hears of it so often, in seconds.
TOLD_EVERY_S = 2.0


class WaitingRoom:
    """``worker_wait_s`` 0: nobody waits. ``clock`` is the fleet's."""

    def __init__(self, *, fleet: Fleet, worker_wait_s: float, clock: Callable[[], float]) -> None:
        self._fleet, self._worker_wait_s, self._clock = fleet, worker_wait_s, clock
        self._joined = asyncio.Event()
        self.waiting = 0
        fleet.watch(lambda _name: self._joined.set())

    async def wait(self, *, arrived: float, deadline: float) -> AsyncGenerator[Queued, None]:
        """Says now and then that the request waits. Ends without a worker too, once it has waited long enough."""
        until = min(deadline, arrived + self._worker_wait_s)
        self.waiting += 1
        try:
            while self._fleet.empty and (left := until - self._clock()) > 0:
                self._joined.clear()
                try:
                    async with asyncio.timeout(min(TOLD_EVERY_S, left)):
                        await self._joined.wait()
                except TimeoutError:
                    yield Queued("no worker has joined yet", self._clock() - arrived)
        finally:
            self.waiting -= 1
