"""Runs an admitted request: shares it out, waits its turn, relays the workers' streams, and replaces workers that fail.

When and where a job starts is the scheduler's decision; knows workers through ports.py only. Holds one message at a
time, so a slow caller slows its workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import structlog
from opentelemetry import trace

from looksmith.errors import LooksmithError
from services.chassis.painting import Settled
from services.chassis.painting_events import Accepted, ImageRestarted, Placed, Queued
from services.router import metrics
from services.router.admission import Admitted
from services.router.attempt import Attempt, AttemptFailed, placement_attributes
from services.router.errors import RequestSuperseded, WorkerLost, WorkerNotFound
from services.router.events import Kind, LastEvent, RouterEvent, WorkerEvent
from services.router.fleet import Fleet
from services.router.merging import merged
from services.router.placement import Job, Placement, place
from services.router.portions import dealt, portion_sizes
from services.router.ports import WorkerConnection
from services.router.rate_limits import RateLimits
from services.router.request_memory import nothing
from services.router.request_records import Tally
from services.router.retry_budget import RetryBudget
from services.router.run import Portion, Run
from services.router.scheduler import Scheduler, Ticket
from services.router.usage import Usage
from services.router.waiting_room import TOLD_EVERY_S
from services.router.watchdog import Watchdog

log = structlog.get_logger()
tracer = trace.get_tracer(__name__)


class Dispatcher:
    """``clock`` is the fleet's: monotonic seconds. ``max_redispatches`` are those of one portion."""

    def __init__(
        self,
        *,
        router: str,
        fleet: Fleet,
        scheduler: Scheduler,
        watchdog: Watchdog,
        budget: RetryBudget,
        limits: RateLimits,
        usage: Usage,
        max_redispatches: int,
        clock: Callable[[], float],
    ) -> None:
        self._router, self._fleet, self._scheduler, self._watchdog = router, fleet, scheduler, watchdog
        self._budget, self._limits, self._usage = budget, limits, usage
        self._max_redispatches, self._clock = max_redispatches, clock

    async def run(
        self, admitted: Admitted, *, arrived: float, deadline: float, tally: Tally | None = None
    ) -> AsyncGenerator[RouterEvent, None]:
        """All that happens until the request has ended; ``arrived`` and ``deadline`` are on the clock.

        ``tally`` is where it counts what the caller is given.

        Raises:
            NoWorker: nobody can take it.
            ResourceExhausted: it can't be done in time, or its brand has used up what it may.
            RequestSuperseded: a retry took over.
            LooksmithError: what the last worker answered.
        """
        share = admitted.share
        self._budget.request()
        self._limits.check(admitted.settled.request.brand, share.gpu_seconds_per_minute)
        run = Run(admitted, arrived, deadline, self._clock(), tally or Tally())
        try:
            self._enter(run)
            admitted.this_try.stop = lambda: self._stop(run)
            yield Accepted(admitted.settled, admitted.stale_since)
            async with aclosing(merged([self._portion(run, portion) for portion in run.portions])) as events:
                async for event in events:
                    yield event
        finally:
            admitted.this_try.stop = nothing
            for portion in run.portions:
                self._scheduler.leave(portion.ticket)
            self._charge(run)

    def _charge(self, run: Run) -> None:
        """Settles a request that has ended: its brand's limit, its usage and its record say the same."""
        cost = sum(portion.cost(self._clock()) for portion in run.portions)
        charged = sum(portion.charged for portion in run.portions)
        self._limits.spend(run.brand, run.admitted.share.gpu_seconds_per_minute, cost - charged)
        if (broken_off := cost - run.tally.gpu_seconds) > 0:
            self._usage.add(run.brand, gpu_seconds=broken_off)
            metrics.gpu_seconds.add(broken_off, {"brand": run.brand})
            run.tally.gpu_seconds = cost

    def explain(self, settled: Settled, *, weight: float) -> Placement:
        """Where a request would be bound now; books nothing."""
        return place(Job.of(settled, weight=weight), self._fleet.snapshot(), self._clock())

    # Waiting

    def _enter(self, run: Run) -> None:
        """Shares the images out and puts each portion into the queue, all of them or none."""
        settled = run.admitted.settled
        job = Job.of(settled, weight=run.admitted.share.weight)
        shares = dealt(settled.images_to_paint, portion_sizes(job, self._fleet.snapshot(), self._clock()))
        for number, images in enumerate(shares, start=1 if len(shares) > 1 else 0):
            others = set(settled.images_to_paint) - set(images)
            request = replace(settled.request, images_done=settled.request.images_done | others)
            run.portions.append(self._entered(run, number, replace(settled, request=request)))

    def _entered(self, run: Run, number: int, settled: Settled) -> Portion:
        bound = asyncio.get_running_loop().create_future()
        ticket = self._ticket(run, settled, bound)
        charged = ticket.placement.gpu_seconds
        self._limits.spend(run.brand, run.admitted.share.gpu_seconds_per_minute, charged)
        return Portion(number, settled, ticket, bound, charged=charged)

    def _ticket(
        self, run: Run, settled: Settled, bound: asyncio.Future[None], failed: dict[str, LooksmithError] | None = None
    ) -> Ticket:
        with tracer.start_as_current_span("place", record_exception=False) as span:
            ticket = self._scheduler.enter(
                Job.of(settled, weight=run.admitted.share.weight),
                arrived=run.arrived,
                deadline=run.deadline,
                settled=lambda error: _settle(bound, error),
                excluded=failed or (),
                paid=failed is not None,
                most_waiting=run.admitted.share.max_queued_jobs,
            )
            span.set_attributes(placement_attributes(ticket.placement))
            span.set_attribute("looksmith.candidates", len(ticket.placement.offers))
        return ticket

    async def _turn(self, run: Run, portion: Portion) -> AsyncGenerator[Queued, None]:
        """Ends once the portion is bound; until then says now and then that it waits. Raises what became of it."""
        with tracer.start_as_current_span("queue", record_exception=False):
            while not portion.bound.done():
                await asyncio.wait({portion.bound}, timeout=TOLD_EVERY_S)
                if not portion.bound.done() and portion.number <= 1:
                    ticket = portion.ticket
                    reason = f"waits for {ticket.worker}" if ticket.worker else "no worker is ready"
                    waited = self._clock() - run.arrived
                    yield Queued(reason, waited, self._scheduler.expected_wait(ticket))
            portion.bound.result()
        if run.queue_s is None:
            run.queue_s = self._clock() - run.admitted_at
            metrics.queued.record(run.queue_s)

    def _stop(self, run: Run) -> None:
        """Frees workers at once, though the caller of the superseded try may still be slow to take its last message."""
        for portion in run.portions:
            _settle(portion.bound, RequestSuperseded(run.admitted.settled.request.request_id))
            if portion.attempt and portion.attempt.call:
                portion.attempt.call.cancel()
            self._scheduler.leave(portion.ticket)

    # Attempts

    async def _portion(self, run: Run, portion: Portion) -> AsyncGenerator[RouterEvent, None]:
        while True:  # ends: a failed worker is not asked again, and only so many may fail
            try:
                async with aclosing(self._attempt(run, portion)) as events:
                    async for event in events:
                        yield event
            except AttemptFailed as failure:
                self._dispatch_again(run, portion, failure)
                for image in sorted(portion.partial):
                    yield ImageRestarted(image)
                portion.partial.clear()
            else:
                return

    async def _attempt(self, run: Run, portion: Portion) -> AsyncGenerator[RouterEvent, None]:
        async with aclosing(self._turn(run, portion)) as waiting:
            async for queued in waiting:
                yield queued
        placement, number = portion.ticket.placement, len(portion.failed) + 1
        worker = portion.ticket.worker
        portion.begun_at = self._clock()
        run.tally.tier = placement.tier if not run.tally.workers else run.tally.tier
        run.tally.workers.append(worker)
        try:
            attempt = portion.attempt = Attempt(
                number,
                placement,
                self._connection(worker),
                self._clock(),
                free_room=lambda: self._scheduler.leave(portion.ticket),
            )
            log.info("request.placed", worker=worker, reason=placement.reason, attempt=number)
            yield Placed(worker, placement.reason, placement.tier, number, portion.images)
            this_try = run.admitted.this_try
            if this_try.superseded:
                raise RequestSuperseded(run.admitted.settled.request.request_id)
            events = attempt.events(
                portion.settled,
                router=self._router,
                portion=portion.number,
                timeout_s=run.deadline - self._clock(),
                this_try=this_try,
            )
            with self._watchdog.watching(attempt):
                async with aclosing(events):
                    async for event in events:
                        this_try.accepted = True  # one that refuses says nothing before
                        attempt.last_word = self._clock()
                        if event.kind in {Kind.ACCEPTED, Kind.PLACED}:
                            continue  # the router has said these
                        portion.note(event)
                        if told := self._told(run, event, worker):
                            attempt.telling_since = self._clock()
                            yield told
                            attempt.telling_since = None
        finally:
            portion.attempt = None
            self._scheduler.leave(portion.ticket)

    def _connection(self, worker: str) -> WorkerConnection:
        try:
            return self._fleet.member(worker).connection
        except WorkerNotFound:
            raise AttemptFailed(worker, WorkerLost(worker, "it has just left"), begun=False) from None

    def _told(self, run: Run, event: WorkerEvent, worker: str) -> RouterEvent | None:
        """What the caller is told of an event, counted: the last of the last portion sums all of them up."""
        if event.kind is Kind.IMAGE_DONE:
            metrics.images.add(1, {"brand": run.brand})
            self._usage.add(run.brand, images=1)
            run.tally.images += 1
        elif event.kind is Kind.IMAGE_BLOCKED:
            run.tally.images_blocked += 1
            recipe = run.admitted.settled.recipe.name
            metrics.images_blocked.add(1, {"recipe": recipe, "reason": event.reason})
            log.info("image.blocked", image=event.image, recipe=recipe, reason=event.reason)
        if event.kind is not Kind.FINISHED:
            return event
        self._fleet.succeeded(worker)
        metrics.gpu_seconds.add(event.gpu_seconds, {"brand": run.brand})
        self._usage.add(run.brand, gpu_seconds=event.gpu_seconds)
        run.tally.gpu_seconds += event.gpu_seconds
        if not run.finished:
            return None
        spent = sum(portion.finished.gpu_seconds for portion in run.portions if portion.finished)
        total_s = self._clock() - run.arrived
        attempts = 1 + sum(len(portion.failed) for portion in run.portions)
        return LastEvent(event, total_s, run.queue_s or 0.0, attempts, spent)

    def _dispatch_again(self, run: Run, portion: Portion, failure: AttemptFailed) -> None:
        """Puts a portion whose worker failed it back into the queue, ahead of its brand's turn.

        Raises:
            LooksmithError: the worker's, if no other one may be asked.
        """
        worker, error = failure.worker, failure.error
        log.warning("attempt.failed", worker=worker, reason=error.reason, message=error.message)
        if failure.blamed:
            self._fleet.failed(worker, lost=isinstance(error, WorkerLost))
        portion.failed[worker] = error
        portion.begun_at = None
        if failure.begun:  # one that was busy or leaving has cost nothing
            if portion.redispatched == self._max_redispatches or not self._budget.spend():
                raise error
            portion.redispatched += 1
        portion.bound = asyncio.get_running_loop().create_future()
        try:
            portion.ticket = self._ticket(run, portion.settled, portion.bound, portion.failed)
        except LooksmithError:
            raise error from None


def _settle(bound: asyncio.Future[None], error: LooksmithError | None) -> None:
    if bound.done():
        return
    if error:
        bound.set_exception(error)
        bound.exception()  # whoever waits for it hears of it; one that nobody waits for any more is no news
    else:
        bound.set_result(None)
