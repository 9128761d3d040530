"""Runs an admitted request: places it, books the work, relays a worker's stream, and replaces a worker that fails.

Holds one message at a time, so a slow caller slows its worker; knows workers through ports.py only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass, field, replace

import structlog
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
from services.chassis.painting_events import Accepted, ImageRestarted, Placed
from services.router import metrics
from services.router.admission import Admitted
from services.router.errors import NoWorker, RequestSuperseded, WorkerLost
from services.router.events import Kind, LastEvent, RouterEvent, WorkerEvent
from services.router.fleet import Booking, Fleet
from services.router.placement import Job, Placement, place
from services.router.ports import WorkerCall, WorkerConnection
from services.router.request_memory import Try, nothing

log = structlog.get_logger()
tracer = trace.get_tracer(__name__)

#: How a worker fails at what another one may do. All else is the request's own fault, or its deadline's.
WORKER_FAILURES = (Unavailable, Internal, Aborted, Cancelled, ResourceExhausted, DataLoss)


@dataclass
class Progress:
    """How far a request has come: what its caller holds, and which workers failed it."""

    settled: Settled
    arrived: float
    deadline: float
    queue_s: float = 0.0
    failed: dict[str, LooksmithError] = field(default_factory=dict)  # by worker, in order
    partial: set[int] = field(default_factory=set)  # images of which the caller holds some chunks
    finished: bool = False

    @property
    def attempt(self) -> int:
        return len(self.failed) + 1

    def note(self, event: WorkerEvent) -> None:
        if event.kind is Kind.CHUNK:
            self.partial.add(event.image)
        elif event.kind is Kind.IMAGE_DONE:
            self.partial.discard(event.image)
            request = self.settled.request
            request = replace(request, images_done=request.images_done | {event.image})
            self.settled = replace(self.settled, request=request)
        elif event.kind is Kind.FINISHED:
            self.finished = True


@dataclass(frozen=True)
class Berth:
    """A worker that a request is bound to, with the work booked on it."""

    placement: Placement
    worker: str
    connection: WorkerConnection
    booking: Booking


class AttemptFailed(Exception):
    """A worker failed at what another one may do; never leaves this module."""

    def __init__(self, worker: str, error: LooksmithError) -> None:
        super().__init__(worker)
        self.worker, self.error = worker, error


class Dispatcher:
    """``clock`` is the fleet's: monotonic seconds."""

    def __init__(self, *, router: str, fleet: Fleet, max_redispatches: int, clock: Callable[[], float]) -> None:
        self._router = router
        self._fleet = fleet
        self._max_redispatches = max_redispatches
        self._clock = clock

    async def run(self, admitted: Admitted, *, arrived: float, deadline: float) -> AsyncGenerator[RouterEvent, None]:
        """All that happens until the request has ended; ``arrived`` and ``deadline`` are on the clock.

        Raises:
            NoWorker: nobody can take it.
            RequestSuperseded: a retry took over.
            LooksmithError: what the last worker answered.
        """
        progress = Progress(admitted.settled, arrived, deadline)
        admitted_at = self._clock()
        with tracer.start_as_current_span("queue"):
            yield Accepted(admitted.settled, admitted.stale_since)
        progress.queue_s = self._clock() - admitted_at
        metrics.queued.record(progress.queue_s)
        while True:  # ends: a failed worker is not asked again, and only so many may fail
            try:
                async with aclosing(self._attempt(admitted.this_try, progress)) as events:
                    async for event in events:
                        yield event
            except AttemptFailed as failure:
                self._note_failure(failure, progress)
                for image in sorted(progress.partial):
                    yield ImageRestarted(image)
                progress.partial.clear()
            else:
                return

    def explain(self, settled: Settled) -> Placement:
        """Where a request would be bound now; books nothing."""
        return place(Job.of(settled), self._fleet.snapshot(), self._clock())

    async def _attempt(self, this_try: Try, progress: Progress) -> AsyncGenerator[RouterEvent, None]:
        berth = self._berth(progress)
        try:
            with _attempt_span(berth, progress.attempt) as span:
                yield Placed(berth.worker, berth.placement.reason, berth.placement.tier, progress.attempt)
                if this_try.superseded:
                    raise RequestSuperseded(progress.settled.request.request_id)
                with _failures_named(berth.worker, this_try, progress):
                    async with self._call(berth, progress, span) as call:
                        this_try.stop = lambda: _stop(call, berth.booking)
                        async for event in call:
                            this_try.accepted = True  # one that refuses says nothing before
                            if event.kind in {Kind.ACCEPTED, Kind.PLACED}:
                                continue  # the router has said these
                            progress.note(event)
                            yield self._passed_on(event, berth.worker, progress)
                        if not progress.finished:
                            raise Internal(f"worker {berth.worker!r} ended its stream without finishing")
        finally:
            this_try.stop = nothing  # the memory of the request outlives the call, and must not hold its channel
            berth.booking.release()

    def _berth(self, progress: Progress) -> Berth:
        """Places and books in one go: nothing else runs between, so two requests don't both find a worker free."""
        job = Job.of(progress.settled)
        with tracer.start_as_current_span("place", record_exception=False) as span:
            placement = place(job, self._fleet.snapshot(), self._clock(), excluded=progress.failed)
            if placement.worker is None:
                if progress.failed:
                    raise list(progress.failed.values())[-1]
                whys = "; ".join(f"{c.worker}: {c.reason}" for c in placement.candidates)
                raise NoWorker(f"no worker can take it ({whys or 'none has joined this router'})")
            span.set_attributes(_attributes(placement))
            span.set_attribute("looksmith.candidates", len(placement.candidates))
        log.info("request.placed", worker=placement.worker, reason=placement.reason, attempt=progress.attempt)
        return Berth(
            placement,
            placement.worker,
            self._fleet.member(placement.worker).connection,
            self._fleet.book(placement.worker, placement.gpu_seconds, job.digests),
        )

    def _call(self, berth: Berth, progress: Progress, span: trace.Span) -> AbstractAsyncContextManager[WorkerCall]:
        timeout_s = progress.deadline - self._clock()
        if timeout_s <= 0:
            raise DeadlineExceeded("the deadline passed before a worker could begin")
        settled = progress.settled
        pinned = Pinned(settled.adapters, settled.recipe.digest, settled.final_prompt, progress.attempt, self._router)
        metadata: dict[str, str] = {}
        propagate.inject(metadata, trace.set_span_in_context(span))
        return berth.connection.generate(settled, pinned, timeout_s=timeout_s, metadata=metadata)

    def _passed_on(self, event: WorkerEvent, worker: str, progress: Progress) -> RouterEvent:
        """The event for the caller, counted; the router adds what it knows better to the last one."""
        brand = {"brand": progress.settled.request.brand}
        if event.kind is Kind.IMAGE_DONE:
            metrics.images.add(1, brand)
        if event.kind is not Kind.FINISHED:
            return event
        self._fleet.succeeded(worker)
        metrics.gpu_seconds.add(event.gpu_seconds, brand)
        return LastEvent(event, self._clock() - progress.arrived, progress.queue_s, progress.attempt)

    def _note_failure(self, failure: AttemptFailed, progress: Progress) -> None:
        worker, error = failure.worker, failure.error
        log.warning("attempt.failed", worker=worker, reason=error.reason, message=error.message)
        # Whoever is busy, leaves, or waits for the registry is not broken.
        if isinstance(error, WorkerLost) or not isinstance(error, ResourceExhausted | Unavailable):
            self._fleet.failed(worker)
        if len(progress.failed) == self._max_redispatches:
            raise error
        progress.failed[worker] = error


@contextmanager
def _failures_named(worker: str, this_try: Try, progress: Progress) -> Iterator[None]:
    """Tells how a worker's stream ended by the exceptions that dispatch acts on."""
    try:
        yield
    except asyncio.CancelledError:
        if this_try.superseded:
            raise RequestSuperseded(progress.settled.request.request_id) from None
        raise
    except WORKER_FAILURES as error:
        if not progress.finished:  # else the caller has all there is, and a connection lost now harms nobody
            raise AttemptFailed(worker, error) from error


@contextmanager
def _attempt_span(berth: Berth, attempt: int) -> Iterator[trace.Span]:
    """One span an attempt. Not the current one: a generator's frames would leak it into its caller's context."""
    span = tracer.start_span("attempt", attributes={"looksmith.attempt": attempt, **_attributes(berth.placement)})
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


def _attributes(placement: Placement) -> dict[str, str]:
    tier = placement.tier.name.lower() if placement.tier else ""
    return {
        "looksmith.worker": placement.worker or "",
        "looksmith.placement.reason": placement.reason,
        "looksmith.tier": tier,
    }


def _stop(call: WorkerCall, booking: Booking) -> None:
    """Frees a worker at once, though the caller of the superseded try may still be slow to take its last message."""
    call.cancel()
    booking.release()
