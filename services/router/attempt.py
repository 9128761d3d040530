"""One attempt at one worker: its call, its span, and what its end means for the request.

Leaves to dispatch.py whether another worker is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import propagate, trace

from looksmith.errors import (
    Aborted,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Internal,
    LooksmithError,
    ResourceExhausted,
    Unavailable,
)
from services.chassis.painting import Pinned, Settled
from services.router import metrics
from services.router.errors import RequestSuperseded, WorkerLost, WorkerStalled
from services.router.events import Kind, WorkerEvent
from services.router.placement import Placement
from services.router.ports import WorkerCall, WorkerConnection
from services.router.request_memory import Try, nothing

tracer = trace.get_tracer(__name__)

#: How a worker fails at what another one may do. All else is the request's own fault, or its deadline's.
WORKER_FAILURES = (Unavailable, Internal, Aborted, Cancelled, ResourceExhausted, DataLoss)


class AttemptFailed(Exception):
    """A worker failed at what another one may do; caught by dispatch.

    ``begun``: it had said something, so it is not just busy or leaving. ``blamed``: it is broken, not busy, leaving
    or waiting for the registry.
    """

    def __init__(self, worker: str, error: LooksmithError, *, begun: bool) -> None:
        super().__init__(worker)
        self.worker, self.error, self.begun = worker, error, begun

    @property
    def blamed(self) -> bool:
        lost = isinstance(self.error, WorkerLost | WorkerStalled)
        return lost or not isinstance(self.error, ResourceExhausted | Unavailable)


@dataclass(eq=False)
class Attempt:
    """``last_word`` is when the worker last said something, or was asked, on the dispatcher's clock.

    ``telling_since`` is since when its caller has had a message to take; ``free_room`` lets the scheduler give the
    worker other work in its stead.
    """

    number: int
    placement: Placement
    connection: WorkerConnection
    last_word: float
    free_room: Callable[[], None] = nothing
    telling_since: float | None = None
    begun: bool = False
    given_up: LooksmithError | None = None
    call: WorkerCall | None = None

    @property
    def worker(self) -> str:
        return self.placement.worker or ""

    def give_up(self, error: LooksmithError) -> None:
        """Ends it as if the worker had failed with ``error``; for whoever sees that it says nothing more."""
        self.given_up = self.given_up or error
        if self.call:
            self.call.cancel()

    async def events(
        self, settled: Settled, *, router: str, portion: int, timeout_s: float, this_try: Try
    ) -> AsyncGenerator[WorkerEvent, None]:
        """What the worker says, ended by its FINISHED.

        Raises:
            AttemptFailed: another worker may do it.
            RequestSuperseded: a retry took over.
            LooksmithError: no other worker would do better.
        """
        if timeout_s <= 0:
            raise DeadlineExceeded("the deadline passed before a worker could begin")
        pinned = Pinned(settled.adapters, settled.recipe.digest, settled.final_prompt, self.number, router, portion)
        finished = False
        with _spanned(self) as span, self._failures_named(this_try, settled):
            metadata: dict[str, str] = {}
            propagate.inject(metadata, trace.set_span_in_context(span))
            opened = self.connection.generate(settled, pinned, timeout_s=timeout_s, metadata=metadata)
            async with opened as self.call:
                try:
                    async for event in self.call:
                        self.begun = True
                        finished = finished or event.kind is Kind.FINISHED
                        if event.kind is Kind.IMAGE_BLOCKED:
                            span.add_event(
                                "image.blocked", {"looksmith.image": event.image, "looksmith.reason": event.reason}
                            )
                        yield event
                except WORKER_FAILURES:
                    if not finished:  # else the caller has all there is, and a connection lost now harms nobody
                        raise
            if not finished:
                raise Internal(f"worker {self.worker!r} ended its stream without finishing")

    @contextmanager
    def _failures_named(self, this_try: Try, settled: Settled) -> Iterator[None]:
        """Tells how a worker's stream ended by the exceptions that dispatch acts on."""
        try:
            yield
        except asyncio.CancelledError:
            if this_try.superseded:
                raise RequestSuperseded(settled.request.request_id) from None
            if self.given_up:
                raise AttemptFailed(self.worker, self.given_up, begun=True) from None
            raise
        except WORKER_FAILURES as error:
            begun = self.begun or isinstance(error, WorkerLost)
            raise AttemptFailed(self.worker, error, begun=begun) from error


@contextmanager
def _spanned(attempt: Attempt) -> Iterator[trace.Span]:
    """One span an attempt. Not the current one: a generator's frames would leak it into its caller's context."""
    span = tracer.start_span("attempt", attributes={"looksmith.attempt": attempt.number})
    span.set_attributes(placement_attributes(attempt.placement))
    outcome, reason = "finished", ""
    try:
        yield span
    except AttemptFailed as failure:
        outcome, reason = "failed", failure.error.reason
        raise
    except RequestSuperseded:
        outcome = "superseded"
        raise
    except LooksmithError as refusal:
        outcome, reason = "refused", refusal.reason
        raise
    except BaseException:
        outcome, reason = "cancelled", Cancelled.reason  # by the caller, or since its deadline passed
        raise
    finally:
        span.set_attribute("looksmith.outcome", outcome)
        if reason:
            span.set_status(trace.StatusCode.ERROR, reason)
        metrics.attempts.add(1, {"outcome": outcome})
        span.end()


def placement_attributes(placement: Placement) -> dict[str, str]:
    tier = placement.tier.name.lower() if placement.tier else ""
    return {
        "looksmith.worker": placement.worker or "",
        "looksmith.placement.reason": placement.reason,
        "looksmith.tier": tier,
    }
