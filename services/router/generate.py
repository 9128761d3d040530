"""One request from arrival to its end: admitted, dispatched, counted, and named in every log line and span.

Speaks no gRPC; what happens in between is admission's and dispatch's business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog
from opentelemetry import trace

from services.chassis.painting import PaintRequest
from services.router import metrics
from services.router.admission import Admission
from services.router.dispatch import Dispatcher
from services.router.events import RouterEvent
from services.router.placement import Explanation
from services.router.request_records import RequestRecords
from services.router.waiting_room import WaitingRoom


class Generation:
    """``clock`` is the dispatcher's. ``default_deadline_s`` bounds requests whose caller set no deadline."""

    def __init__(
        self,
        *,
        admission: Admission,
        dispatcher: Dispatcher,
        waiting_room: WaitingRoom,
        records: RequestRecords,
        default_deadline_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._dispatcher = dispatcher
        self._waiting_room = waiting_room
        self._records = records
        self._default_deadline_s = default_deadline_s
        self._clock = clock

    async def paint(self, request: PaintRequest, *, timeout_s: float | None) -> AsyncGenerator[RouterEvent, None]:
        """Raises what admission and dispatch raise; closing the generator stops the worker."""
        arrived = self._clock()
        deadline = arrived + (self._default_deadline_s if timeout_s is None else timeout_s)
        structlog.contextvars.bind_contextvars(brand=request.brand, request_id=request.request_id)
        trace.get_current_span().set_attributes(
            {
                "looksmith.brand": request.brand,
                "looksmith.request_id": request.request_id,
            }
        )
        with metrics.request_counted(), self._records.recording(request.brand, request.request_id) as tally:
            async with aclosing(self._waiting_room.wait(arrived=arrived, deadline=deadline)) as waiting:
                async for queued in waiting:
                    yield queued
            admitted = await self._admission.admit(request)
            try:
                running = self._dispatcher.run(admitted, arrived=arrived, deadline=deadline, tally=tally)
                async with aclosing(running) as events:
                    async for event in events:
                        yield event
            finally:
                self._admission.ended(admitted)

    async def explain(self, request: PaintRequest) -> Explanation:
        """Where ``request`` would be painted now; paints nothing. Raises what admission raises."""
        admitted = await self._admission.preview(request)
        placement = self._dispatcher.explain(admitted.settled, weight=admitted.share.weight)
        return Explanation(admitted.settled.adapters, placement)
