"""When a job starts, and at which worker: planned and booked on arrival, bound when a worker has room for it.

Puts placement and the fair queue together over the fleet's bookings; synchronous, and knows neither calls nor streams.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.router.bookings import Booking
from services.router.demand import Demand
from services.router.errors import BrandQueueFull, DeadlineUnreachable, ExpiredInQueue, NoWorker, RouterStopping
from services.router.fair_queue import FairQueue
from services.router.fleet import Fleet, FleetSnapshot, WorkerView
from services.router.members import Prefetch, WorkerState
from services.router.placement import SWAP_COSTS, Job, Placement, Rating, SwapCosts, hash_order, place, rate, unfit
from services.router.warmth import Warmth

#: What a worker may have of one router, in batches: the one that it paints and the one whose adapters come meanwhile.
WINDOW_BATCHES = 2
#: A brand of which a worker has nothing may be given one batch beyond: workers share their rows between brands, so it
#: need not wait until a big job of another brand is done.
NEWCOMER_BATCHES = 1
#: Seconds for which jobs that nobody else can take wait for a worker that is being reset: a base of SDXL loads in a
#: minute or two.
RESET_WAIT_S = 120.0
#: Jobs of others that an idle worker looks at, the first in turn: some 5 us each, and the queue may hold thousands.
LOOKED_AT = 100


class Policy(Protocol):
    """How a worker is chosen; the router's is placement.place."""

    def __call__(
        self, job: Job, fleet: FleetSnapshot, now: float, /, *, excluded: Collection[str], costs: SwapCosts
    ) -> Placement: ...


@dataclass(eq=False)
class Ticket:
    """A job from its arrival until it leaves.

    ``settled`` is called once: with None when it is bound, its ``worker`` and ``placement`` being final, or with what
    became of it in the queue.
    """

    job: Job
    arrived: float
    deadline: float
    excluded: frozenset[str]
    paid: bool  # in another attempt: it waits ahead of its brand's turn
    placement: Placement
    settled: Callable[[LooksmithError | None], None]
    booking: Booking | None = None
    bound: bool = False

    @property
    def worker(self) -> str:
        """Where it is planned, or bound; empty while nobody can take it."""
        return self.placement.worker or ""


class Scheduler:
    """``clock`` is the fleet's. With ``worker_wait_s`` jobs that no worker can take wait so long for one that can.

    Where a worker is being reset they wait for RESET_WAIT_S, whatever was set.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        demand: Demand,
        warmth: Warmth,
        clock: Callable[[], float],
        policy: Policy = place,
        costs: SwapCosts = SWAP_COSTS,
        takes_over: bool = True,
        worker_wait_s: float = 0.0,
    ) -> None:
        self._fleet, self._demand, self._warmth, self._clock = fleet, demand, warmth, clock
        self._policy, self._costs = policy, costs
        self._takes_over, self._worker_wait_s = takes_over, worker_wait_s
        self._queue: FairQueue[Ticket] = FairQueue()
        self._planned: defaultdict[str, set[Ticket]] = defaultdict(set)  # waiting tickets by worker; "": by none
        fleet.watch(self._on_change)

    # A job's way

    def enter(
        self,
        job: Job,
        *,
        arrived: float,
        deadline: float,
        settled: Callable[[LooksmithError | None], None],
        excluded: Collection[str] = (),
        paid: bool = False,
        most_waiting: int = 0,
    ) -> Ticket:
        """Plans and books a job, and starts it if its worker has room; ``settled`` may be called before this returns.

        Args:
            job: what to paint.
            arrived: when its request did, on the clock.
            deadline: when it must be done.
            settled: see Ticket.
            excluded: workers that have failed it.
            paid: whether its brand has been charged for it by an earlier attempt; then it is not refused either.
            most_waiting: jobs of its brand that may wait; 0: any number.

        Raises:
            NoWorker: nobody can take it, and there is no waiting for one who can.
            DeadlineUnreachable: it would end after its deadline.
            BrandQueueFull: it would have to wait, and its brand has as many waiting as it may.
        """
        now = self._clock()
        job = replace(job, homes=self._demand.homes(job.brand))
        placement = self._plan(job, excluded)
        if placement.worker is None and not self._patience_s(job, excluded):
            raise NoWorker(f"no worker can take it ({placement.why_not})")
        if now + placement.least_wait > deadline and not paid:
            raise DeadlineUnreachable(placement.least_wait, deadline - now)
        ticket = Ticket(job, arrived, deadline, frozenset(excluded), paid, placement, settled)
        self._book(ticket)
        self._push(ticket)
        self._bind()
        if most_waiting and ticket in self._queue and self._queue.waiting(job.brand) > most_waiting and not paid:
            wait = self.expected_wait(ticket)
            self.leave(ticket)
            raise BrandQueueFull(job.brand, most_waiting, wait or 0.0)
        if not ticket.bound:
            self._prefetch(ticket)
        if not paid:
            self._demand.note(job.brand, placement.gpu_seconds, now)
        self._warmth.keep(job, self._demand.warm(job.brand), planned=ticket.worker)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The job is done with, wherever it stands; its room is given to others."""
        self._take_out(ticket)
        if ticket.booking:
            ticket.booking.release()
        self._bind()

    def expected_wait(self, ticket: Ticket) -> float | None:
        """Seconds until a waiting job may start, as far as is known."""
        view = self._fleet.find(ticket.worker)
        return self._wait_at(view, ticket) if view else None

    def tick(self) -> None:
        """Ends what has waited too long. To be called now and then, as a fleet without workers reports nothing."""
        self._bind()

    def stop(self) -> None:
        """Ends what waits, so that its callers go on at another router; what has begun may end."""
        for ticket in list(self._queue):
            self._end(ticket, RouterStopping())

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        return tuple(self._queue)

    # Planning

    def _plan(self, job: Job, excluded: Collection[str]) -> Placement:
        return self._policy(job, self._fleet.snapshot(), self._clock(), excluded=excluded, costs=self._costs)

    def _book(self, ticket: Ticket) -> None:
        if ticket.booking:
            ticket.booking.release()
            ticket.booking = None
        if view := self._fleet.find(ticket.worker):
            job = ticket.job
            ticket.booking = self._fleet.book(
                ticket.worker,
                ticket.placement.gpu_seconds,
                brand=job.brand,
                weight=job.weight,
                rows=min(job.rows, view.registration.max_rows),  # more of it are never under way at once
            )

    def _prefetch(self, ticket: Ticket) -> None:
        """Has a waiting job's adapters brought while it waits, to where it is planned."""
        view = self._fleet.find(ticket.worker)
        for digest in ticket.job.digests:
            if view and view.tier(digest) > Tier.HOST:
                self._fleet.tell(ticket.worker, Prefetch(ticket.job.brand, digest))

    def _push(self, ticket: Ticket) -> None:
        cost = 0.0 if ticket.paid else ticket.placement.gpu_seconds
        self._queue.push(ticket, brand=ticket.job.brand, weight=ticket.job.weight, cost=cost, deadline=ticket.deadline)
        self._planned[ticket.worker].add(ticket)

    def _take_out(self, ticket: Ticket) -> None:
        self._queue.remove(ticket)
        self._planned[ticket.worker].discard(ticket)
        if not self._planned[ticket.worker]:
            del self._planned[ticket.worker]

    def _on_change(self, name: str) -> None:
        """A worker that can take nothing more loses what is planned on it; one that can may be who others wait for."""
        view = self._fleet.find(name)
        lost = [] if view and view.state is WorkerState.READY else [*self._planned.get(name, ())]
        for ticket in [*lost, *self._planned.get("", ())]:
            self._plan_anew(ticket)
        self._bind()

    def _plan_anew(self, ticket: Ticket) -> None:
        self._take_out(ticket)
        ticket.placement = self._plan(ticket.job, ticket.excluded)
        self._book(ticket)
        self._push(ticket)
        if not (ticket.worker or self._patience_s(ticket.job, ticket.excluded)):
            self._end(ticket, NoWorker(f"no worker can take it any more ({ticket.placement.why_not})"))

    def _end(self, ticket: Ticket, error: LooksmithError) -> None:
        self._take_out(ticket)
        if ticket.booking:
            ticket.booking.release()
        ticket.settled(error)

    def _patience_s(self, job: Job, excluded: Collection[str]) -> float:
        """How long a job that nobody can take waits for who can; a worker whose engine is rebuilt will be back."""
        will_be_back = any(
            view.state is WorkerState.RESETTING and view.recipe(job.recipe.digest) and view.name not in excluded
            for view in self._fleet.snapshot().workers
        )
        return max(self._worker_wait_s, RESET_WAIT_S) if will_be_back else self._worker_wait_s

    # Binding

    def _bind(self) -> None:
        """Starts what can be started now."""
        if not self._queue:
            return
        self._drop_expired()
        for view in sorted(self._fleet.snapshot().workers, key=lambda view: (sum(view.rows_given.values()), view.name)):
            while self._queue and (ticket := self._next(view)):
                self._start(ticket)
                view = self._fleet.view(view.name)  # noqa: PLW2901  # with what it has just been given

    def _drop_expired(self) -> None:
        now = self._clock()
        for ticket in list(self._queue.due(now)):
            self._end(ticket, ExpiredInQueue(now - ticket.arrived))
        for ticket in list(self._planned.get("", ())):
            if (waited_s := now - ticket.arrived) >= self._patience_s(ticket.job, ticket.excluded):
                waited = f"none came in {waited_s:.3g} s"
                self._end(ticket, NoWorker(f"no worker can take it ({ticket.placement.why_not}), and {waited}"))

    def _next(self, view: WorkerView) -> Ticket | None:
        """What a worker starts next: of what is planned on it, or else of what others have waiting."""
        given = sum(view.rows_given.values())
        window = WINDOW_BATCHES * view.registration.max_rows
        beyond = window + NEWCOMER_BATCHES * view.registration.max_rows

        def has_room(job: Job) -> bool:
            return given < (window if job.brand in view.rows_given else beyond)

        if given >= beyond:
            return None
        ticket = None
        if self._planned.get(view.name):
            ticket = self._queue.take(lambda ticket: ticket.worker == view.name and has_room(ticket.job))
        if ticket:
            self._planned[view.name].discard(ticket)
        elif self._takes_over and view.state is WorkerState.READY and given < window:
            ticket = self._taken_over(view)
        return ticket

    def _start(self, ticket: Ticket) -> None:
        ticket.bound = True
        if ticket.booking:
            ticket.booking.give()
        ticket.settled(None)

    def _taken_over(self, view: WorkerView) -> Ticket | None:
        """A job that waits for another worker and is done sooner here; its plan is changed to this one."""
        fleet = self._fleet.snapshot()
        views = {each.name: each for each in fleet.workers}
        looked_at = itertools.count()
        offers: dict[Ticket, Rating] = {}

        def sooner(ticket: Ticket) -> bool:
            if ticket.worker == view.name or next(looked_at) >= LOOKED_AT or unfit(ticket.job, view, ticket.excluded):
                return False
            rank = hash_order(ticket.job.brand, fleet).index(view.name)
            offer = offers[ticket] = rate(ticket.job, view, rank, self._costs, fleet.taken_at)
            there = views.get(ticket.worker)
            return there is None or offer.booked + offer.adapter + offer.penalty < self._wait_at(there, ticket)

        ticket = self._queue.take(sooner)
        if ticket is None:
            return None
        self._planned[ticket.worker].discard(ticket)
        best = offers[ticket]
        others = tuple(offer for offer in ticket.placement.offers if offer.worker != view.name)
        ticket.placement = Placement(
            view.name, f"free, {best.held}", best.tier, best.painting, (best, *others), ticket.placement.unable
        )
        self._book(ticket)
        return ticket

    def _wait_at(self, view: WorkerView, ticket: Ticket) -> float:
        """Seconds that a worker is busy before a waiting job's turn."""
        job = ticket.job
        own = ticket.booking.gpu_seconds if ticket.booking and not ticket.booking.given else 0.0
        return max(0.0, view.ahead(job.brand, job.weight, 0.0, self._clock()) - own)
