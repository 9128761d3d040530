"""What one router has booked on one worker: jobs that wait for it here, and jobs that it has been given. Pure.

Keeps sums, so that a placement never adds jobs up; what a job is worth is decided by whoever books it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Waiting:
    """What one brand has waiting for a worker, in GPU-seconds, and its fair-share weight."""

    gpu_seconds: float
    weight: float


@dataclass(frozen=True)
class UnderWay:
    """The job that a worker is at: what it costs in GPU-seconds, and since when, on the fleet's clock."""

    gpu_seconds: float
    since: float

    def done(self, now: float) -> float:
        """GPU-seconds of it that are behind it."""
        return min(self.gpu_seconds, now - self.since)


@dataclass(eq=False)
class Booking:
    """A job's work at a worker: it waits in the router's queue, is given to the worker, and is released in the end."""

    brand: str
    weight: float
    gpu_seconds: float
    rows: int
    _books: Books
    given: bool = False
    released: bool = False

    def give(self) -> None:
        """The worker has it now. Does nothing the second time."""
        if not (self.given or self.released):
            self._books.give(self)

    def release(self) -> None:
        """It is done with, however it ended. Does nothing the second time."""
        if not self.released:
            self._books.release(self)


@dataclass(eq=False)
class Books:
    """All bookings on one worker. ``changes`` counts, so that a reader knows whether what it made of them is old.

    ``clock`` is the fleet's.
    """

    clock: Callable[[], float]
    changes: int = 0
    gpu_seconds: float = 0.0
    jobs: int = 0
    rows_given: Counter[str] = field(default_factory=Counter)  # by brand
    _given: dict[Booking, None] = field(default_factory=dict)  # the oldest first
    _begun: float = 0.0  # when the worker came to the oldest of them, as far as is known here
    _waiting: dict[str, list[Booking]] = field(default_factory=dict)
    _sums: dict[str, Waiting] = field(default_factory=dict)

    def book(self, gpu_seconds: float, *, brand: str, weight: float, rows: int) -> Booking:
        booking = Booking(brand, weight, gpu_seconds, rows, self)
        self.changes += 1
        self.jobs += 1
        self.gpu_seconds += gpu_seconds
        self._waiting.setdefault(brand, []).append(booking)
        self._sum_up(brand)
        return booking

    def give(self, booking: Booking) -> None:
        self.changes += 1
        self._waits_no_more(booking)
        booking.given = True
        if not self._given:
            self._begun = self.clock()
        self._given[booking] = None
        self.rows_given[booking.brand] += booking.rows

    def release(self, booking: Booking) -> None:
        self.changes += 1
        booking.released = True
        if booking.given:
            del self._given[booking]
            self._begun = self.clock()
            self.rows_given[booking.brand] -= booking.rows
            if not self.rows_given[booking.brand]:
                del self.rows_given[booking.brand]
        else:
            self._waits_no_more(booking)
        self.jobs -= 1
        # A sum of floats drifts; with nothing booked it is 0 again.
        self.gpu_seconds = self.gpu_seconds - booking.gpu_seconds if self.jobs else 0.0

    @property
    def under_way(self) -> UnderWay | None:
        oldest = next(iter(self._given), None)
        return UnderWay(oldest.gpu_seconds, self._begun) if oldest else None

    @property
    def waiting(self) -> Mapping[str, Waiting]:
        """By brand; only brands that have something waiting."""
        return dict(self._sums)

    def _waits_no_more(self, booking: Booking) -> None:
        self._waiting[booking.brand].remove(booking)
        self._sum_up(booking.brand)

    def _sum_up(self, brand: str) -> None:
        if waiting := self._waiting[brand]:
            self._sums[brand] = Waiting(sum(booking.gpu_seconds for booking in waiting), waiting[-1].weight)
        else:
            del self._waiting[brand], self._sums[brand]
