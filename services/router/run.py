"""One request while it runs: its portions, how far each has come, and what the caller holds of it.

Knows what happened; what is done about it is dispatch.py's business.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from looksmith.errors import LooksmithError
from services.chassis.painting import Settled
from services.router.admission import Admitted
from services.router.attempt import Attempt
from services.router.events import Kind, WorkerEvent
from services.router.request_records import Tally
from services.router.scheduler import Ticket


@dataclass(eq=False)
class Portion:
    """Images of a request that one worker paints at a time; ``number`` 0: all of them."""

    number: int
    settled: Settled
    ticket: Ticket
    bound: asyncio.Future[None]
    failed: dict[str, LooksmithError] = field(default_factory=dict)  # by worker, in order
    redispatched: int = 0
    partial: set[int] = field(default_factory=set)  # images of which the caller holds some chunks
    finished: WorkerEvent | None = None
    attempt: Attempt | None = None
    charged: float = 0.0  # GPU-seconds that its brand's account was charged when it entered
    begun_at: float | None = None  # when the worker that has it was given it, on the dispatcher's clock

    def cost(self, now: float) -> float:
        """GPU-seconds that its brand owes: what the worker says, or of one that was broken off what was expected.

        Never more than the time that a worker had it, and nothing for workers that failed.
        """
        if self.finished:
            return self.finished.gpu_seconds
        return min(self.charged, now - self.begun_at) if self.begun_at is not None else 0.0

    @property
    def images(self) -> tuple[int, ...]:
        """What a caller is told that it is about; empty: all that are left."""
        return self.settled.images_to_paint if self.number else ()

    def note(self, event: WorkerEvent) -> None:
        if event.kind is Kind.CHUNK:
            self.partial.add(event.image)
        elif event.kind in {Kind.IMAGE_DONE, Kind.IMAGE_BLOCKED}:
            self.partial.discard(event.image)
            request = self.settled.request
            self.settled = replace(
                self.settled, request=replace(request, images_done=request.images_done | {event.image})
            )
        elif event.kind is Kind.FINISHED:
            self.finished = event


@dataclass(eq=False)
class Run:
    """A request while it runs."""

    admitted: Admitted
    arrived: float
    deadline: float
    admitted_at: float
    tally: Tally = field(default_factory=Tally)
    portions: list[Portion] = field(default_factory=list)
    queue_s: float | None = None  # until its first portion was bound

    @property
    def brand(self) -> str:
        return self.admitted.settled.request.brand

    @property
    def finished(self) -> bool:
        return all(portion.finished for portion in self.portions)
