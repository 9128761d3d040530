"""The live view of the workers: who has joined, what they hold, and the work that this router booked on them.

Keeps what sessions report; speaks no gRPC and chooses no worker: placement reads an immutable snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from looksmith import __version__
from looksmith.nouns import Tier
from services.chassis.painting import RecipeFacts
from services.router.bookings import Booking, Books, UnderWay, Waiting
from services.router.errors import WorkerNotFound, WorkerReplaced
from services.router.members import Command, Heartbeat, MeasuredCost, Registration, WorkerState
from services.router.ports import WorkerConnection

log = structlog.get_logger()

#: A worker that fails so many jobs in a row is left alone so long. Envoy: 5 and 30 s; jobs are fewer here than calls.
FAILURES_TO_EJECT = 3
EJECTED_S = 10.0
#: Jobs that are lost within so many seconds were lost for one reason.
LOST_TOGETHER_S = 2.0


@dataclass(frozen=True)
class WorkerView:
    """One worker at one moment. ``heard_at`` is on the fleet's clock, ``heard_time`` on the wall."""

    registration: Registration
    state: WorkerState
    heartbeat: Heartbeat
    heard_at: float
    heard_time: datetime
    booked_here: float = 0.0  # GPU-seconds, waiting here for the worker or given to it
    booked_elsewhere: float = 0.0
    jobs_here: int = 0
    under_way: UnderWay | None = None  # the oldest of our jobs that the worker has
    waiting: Mapping[str, Waiting] = field(default_factory=dict)  # what of it waits, by brand
    rows_given: Mapping[str, int] = field(default_factory=dict)  # of jobs that the worker has, by brand

    @property
    def name(self) -> str:
        return self.registration.name

    @property
    def booked(self) -> float:
        """GPU-seconds of all routers' jobs, as far as this one knows."""
        return self.booked_here + self.booked_elsewhere

    def ahead(self, brand: str, weight: float, gpu_seconds: float, now: float) -> float:
        """GPU-seconds that are served before a job of ``brand`` is done, its own ``gpu_seconds`` left out.

        Brands that wait are served by weight, so while this one's jobs are, others can only get so much. What the
        worker is at is partly done.
        """
        own = (gpu_seconds + (self.waiting[brand].gpu_seconds if brand in self.waiting else 0.0)) / weight
        later = 0.0
        for other, waiting in self.waiting.items():
            if other != brand and (rest := waiting.gpu_seconds - own * waiting.weight) > 0:
                later += rest
        done = self.under_way.done(now) if self.under_way else 0.0
        return max(0.0, self.booked - later - done)

    def cost(self, recipe: str, size: tuple[int, int]) -> MeasuredCost | None:
        """What painting costs in the smallest batch that was measured."""
        return self.heartbeat.costs_alone.get((recipe, size))

    def tier(self, digest: str) -> Tier:
        return self.heartbeat.residency.get(digest, Tier.STORE)

    def recipe(self, digest: str) -> RecipeFacts | None:
        return next((recipe for recipe in self.registration.recipes if recipe.digest == digest), None)


@dataclass(frozen=True)
class FleetSnapshot:
    """Every worker whose lease holds, ordered by name, at ``taken_at`` on the fleet's clock."""

    taken_at: float
    workers: tuple[WorkerView, ...] = ()


@dataclass(eq=False)
class Standing:
    """How a worker's process has done of late."""

    failures: int = 0  # in a row
    lost_at: float = -math.inf
    ejections: int = 0  # in a row
    ejected_until: float | None = None


@dataclass(eq=False)
class Member:
    """A worker's open session, and what is known through it; another session of the same name has another Member."""

    registration: Registration
    connection: WorkerConnection
    heartbeat: Heartbeat
    heard_at: float
    heard_time: datetime
    books: Books
    tell: Callable[[Command], None] | None = None  # None: a worker that can't be told anything
    standing: Standing = field(default_factory=Standing)
    seen: tuple[int, WorkerView] | None = None  # the newest view, and how many changes of the books it knows of


class Fleet:
    """All members by name. ``clock`` is monotonic seconds, ``now`` the wall clock for people."""

    def __init__(self, *, router: str, lease_s: float, clock: Callable[[], float], now: Callable[[], datetime]) -> None:
        self._router = router
        self._lease_s = lease_s
        self._clock = clock
        self._now = now
        self._members: dict[str, Member] = {}
        self._watchers: list[Callable[[str], None]] = []

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed`` with a worker's name when it has reported, left or been ejected.

        One that has just joined reports at once; before that nobody knows what it holds.
        """
        self._watchers.append(changed)

    def join(
        self,
        registration: Registration,
        connection: WorkerConnection,
        *,
        tell: Callable[[Command], None] | None = None,
    ) -> Member:
        """Opens a session. The same incarnation keeps bookings, standing and residency, a new one begins with none.

        ``tell`` has the session send a command to its worker.
        """
        blank = Heartbeat(sequence=0, full=False)
        member = Member(registration, connection, blank, self._clock(), self._now(), Books(self._clock), tell)
        before = self._members.get(registration.name)
        if before and before.registration.incarnation == registration.incarnation:
            member.books, member.standing = before.books, before.standing
            member.heartbeat = replace(before.heartbeat, sequence=0)
        self._members[registration.name] = member
        log.info(
            "worker.joined",
            worker=registration.name,
            incarnation=registration.incarnation,
            address=registration.address,
            recipes=[recipe.name for recipe in registration.recipes],
        )
        if registration.version and registration.version != __version__:
            log.warning(
                "worker.other_release", worker=registration.name, version=registration.version, router=__version__
            )
        return member

    def heard(self, member: Member, heartbeat: Heartbeat) -> bool:
        """Takes a heartbeat in. False: one is missing before it, so residency is not what it says; ask for a full one.

        Raises:
            WorkerReplaced: the member's session is not the newest of its name.
        """
        if not self._is_current(member):
            raise WorkerReplaced(member.registration.name)
        member.heard_at, member.heard_time = self._clock(), self._now()
        before = member.heartbeat
        in_order = heartbeat.full or heartbeat.sequence == before.sequence + 1
        if heartbeat.full:
            residency = heartbeat.residency
        elif in_order:
            residency = {**before.residency, **heartbeat.residency}
        else:
            residency = before.residency
        held = {digest: tier for digest, tier in residency.items() if tier is not Tier.STORE}
        sequence = heartbeat.sequence if in_order else before.sequence
        member.heartbeat = replace(heartbeat, sequence=sequence, residency=held)
        member.seen = None
        self._tell_watchers(member.registration.name)
        return in_order

    def tell(self, name: str, command: Command) -> bool:
        """Has a command sent to a worker. False: no worker of that name can be told."""
        member = self._members.get(name)
        if member is None or member.tell is None or not self._is_alive(member):
            return False
        member.tell(command)
        return True

    def leave(self, member: Member, why: str) -> None:
        """Closes a session; does nothing to the one that replaced it."""
        if self._is_current(member):
            del self._members[member.registration.name]
            log.info("worker.left", worker=member.registration.name, why=why)
            self._tell_watchers(member.registration.name)

    def member(self, name: str) -> Member:
        """The member whose lease holds.

        Raises:
            WorkerNotFound: there is none of that name.
        """
        member = self._members.get(name)
        if member is None or not self._is_alive(member):
            raise WorkerNotFound(name)
        return member

    def book(self, name: str, gpu_seconds: float, *, brand: str = "", weight: float = 1.0, rows: int = 1) -> Booking:
        """Counts a job's work against a worker until it is released, or the worker's process is another.

        Raises:
            WorkerNotFound: it is gone.
        """
        return self.member(name).books.book(gpu_seconds, brand=brand, weight=weight, rows=rows)

    def failed(self, name: str, *, lost: bool = False) -> None:
        """Counts a job that a worker failed; several in a row eject it for a while, longer each time.

        Jobs that were lost together, ``lost``, with their connection, count as one: on a starved machine a connection
        breaks that nothing is wrong with. At most half of the workers are ejected at once.
        """
        member, now = self._members.get(name), self._clock()
        if member is None or (lost and now - member.standing.lost_at < LOST_TOGETHER_S):
            return
        standing = member.standing
        if lost:
            standing.lost_at = now
        standing.failures += 1
        ejected = sum(self._state(other) is WorkerState.EJECTED for other in self._members.values())
        if standing.failures < FAILURES_TO_EJECT or ejected >= max(1, len(self._members) // 2):
            return
        standing.failures = 0
        standing.ejections += 1
        seconds = EJECTED_S * standing.ejections
        standing.ejected_until, member.seen = now + seconds, None
        log.warning("worker.ejected", worker=name, seconds=seconds)
        self._tell_watchers(name)

    def succeeded(self, name: str) -> None:
        if member := self._members.get(name):
            if member.standing.ejected_until is not None:
                member.seen = None
            member.standing = Standing()

    @property
    def empty(self) -> bool:
        """Whether no worker's lease holds."""
        return not any(map(self._is_alive, self._members.values()))

    @property
    def idle(self) -> bool:
        """Whether this router has no work under way at any member."""
        return not any(member.books.jobs for member in self._members.values())

    def snapshot(self) -> FleetSnapshot:
        alive = [self._members[name] for name in sorted(self._members) if self._is_alive(self._members[name])]
        return FleetSnapshot(self._clock(), tuple(map(self._view, alive)))

    def view(self, name: str) -> WorkerView:
        """One worker of the snapshot.

        Raises:
            WorkerNotFound: there is none of that name.
        """
        return self._view(self.member(name))

    def find(self, name: str) -> WorkerView | None:
        """One worker of the snapshot, if there is one of that name."""
        member = self._members.get(name)
        return self._view(member) if member and self._is_alive(member) else None

    def _view(self, member: Member) -> WorkerView:
        """Made anew only where something has changed: placements are many more than changes at any one worker."""
        books = member.books
        if member.seen and member.seen[0] == books.changes and member.standing.ejected_until is None:
            return member.seen[1]
        view = WorkerView(
            registration=member.registration,
            state=self._state(member),
            heartbeat=member.heartbeat,
            heard_at=member.heard_at,
            heard_time=member.heard_time,
            booked_here=books.gpu_seconds,
            booked_elsewhere=sum(b.gpu_seconds for b in member.heartbeat.booked if b.router != self._router),
            jobs_here=books.jobs,
            under_way=books.under_way,
            waiting=books.waiting,
            rows_given=dict(books.rows_given),
        )
        member.seen = (books.changes, view)
        return view

    def _state(self, member: Member) -> WorkerState:
        if member.heartbeat.draining:
            return WorkerState.DRAINING
        if member.heartbeat.resetting:
            return WorkerState.RESETTING
        if member.heartbeat.stalled_s:
            return WorkerState.STALLED
        if (until := member.standing.ejected_until) is not None and self._clock() < until:
            return WorkerState.EJECTED
        return WorkerState.READY

    def _tell_watchers(self, name: str) -> None:
        for changed in self._watchers:
            changed(name)

    def _is_current(self, member: Member) -> bool:
        return self._members.get(member.registration.name) is member

    def _is_alive(self, member: Member) -> bool:
        return self._clock() - member.heard_at <= self._lease_s
