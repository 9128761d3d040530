"""How a worker leaves: it tells every router, finishes what it has begun, and only then lets go.

Knows nothing about signals, or about what is closed afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from services.chassis.interceptors import Call
from services.gpu_worker.clock import Clock, seconds

log = structlog.get_logger()

#: Seconds for a router to hear of it; one that is out of reach then learns it from the session's end.
REPORT_S = 1.0


class OpenCalls:
    """The calls of one method that are answered now: a layer around all calls keeps count."""

    def __init__(self, method: str) -> None:
        self._method, self._open, self._none = method, 0, asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return self._open

    @asynccontextmanager
    async def layer(self, call: Call) -> AsyncIterator[None]:
        if call.method != self._method:
            yield
            return
        self._open += 1
        self._none.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._none.set()

    async def none_left(self) -> None:
        await self._none.wait()


async def leave(
    *, calls: OpenCalls, drain: Callable[[], None], reports: Sequence[Awaitable[None]], drain_s: float, clock: Clock
) -> None:
    """Returns when no call is left, or they have had their time.

    Args:
        calls: what is to be finished.
        drain: makes the worker refuse new jobs.
        reports: each ends when a router has heard that it drains.
        drain_s: seconds that calls may take.
        clock: the worker's.
    """
    began = clock()
    drain()
    log.info("worker.leaving", calls=len(calls))
    unheard: set[asyncio.Future[None]] = set()
    if reports:
        _, unheard = await asyncio.wait([asyncio.ensure_future(report) for report in reports], timeout=REPORT_S)
    for report in unheard:
        report.cancel()
    try:
        async with asyncio.timeout(max(0.0, drain_s - seconds(began, clock()))):
            await calls.none_left()
    except TimeoutError:
        log.warning("worker.left_calls", calls=len(calls), drain_s=drain_s)
    log.info("worker.drained", seconds=round(seconds(began, clock()), 3))
