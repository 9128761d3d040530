"""Whether the engine gets on: since when it is at a unit of work, and when that is too long to be work.

The engine's thread writes, the event loop reads; each attribute has one writer and is replaced as a whole, so that a
unit costs no lock. Knows nothing about what the units are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.crowding import crowding

#: No unit is called stalled sooner. Where four other processes' torch came to two cores all at once, batches of 8 in
#: the bank took up to 3.3 s instead of 0.2, beside eight of them up to 10.6. Divided by the crowd (see ``stalled_s``)
#: these 5 are 25 and 45 there.
LEAST_S = 5.0
#: So many times the slowest unit of late: the first batch of a larger size takes some times as long as those before.
PATIENCE = 10.0
#: Before a picture has been painted: loading a base from a slow disk, or a first step, of which quick prompts and
#: copies tell nothing.
UNKNOWN_S = 60.0
#: "Of late" are the window under way and the one before it, in seconds.
WINDOW_S = 150.0
#: A look counts for this long at most, in seconds. Routers have each worker look once a second; on a machine that
#: starves, sleeps or has stopped the process, looks come late, and what passed unwatched says nothing of the engine.
LOOK_S = 2.0


@dataclass(frozen=True)
class _Unit:
    began_ns: int


class Progress:
    """``crowding``: threads that want a core, for each core."""

    def __init__(self, *, clock: Clock, crowding: Callable[[], float] = crowding) -> None:
        self._clock, self._crowding = clock, crowding
        # Written by the engine's thread
        self._unit: _Unit | None = None
        self._usual = False  # whether a picture has been painted
        self._slowest_s = self._slowest_before_s = 0.0
        self._window_began_ns = clock()
        # Written by the event loop
        self._watched: _Unit | None = None
        self._watched_s = 0.0
        self._looked_ns = 0

    def begin(self) -> None:
        self._unit = _Unit(self._clock())

    def end(self, *, painted: bool) -> None:
        """Ends the unit. ``painted``: a picture is finished with it."""
        unit, self._unit = self._unit, None
        now = self._clock()
        self._usual = self._usual or painted
        if unit is None or not self._usual:
            return  # loading takes long and says nothing about steps
        if seconds(self._window_began_ns, now) >= WINDOW_S:
            self._slowest_before_s, self._slowest_s = self._slowest_s, 0.0
            self._window_began_ns = now
        self._slowest_s = max(self._slowest_s, seconds(unit.began_ns, now))

    def stalled_s(self) -> float:
        """Seconds since the unit under way began, once it has been watched for too long; 0 before. For the event loop.

        What counts is time in which this was asked, divided by the crowd: where five threads want each core, an engine
        that does a fifth of its work in a second is not to blame. One that hangs there is found later.
        """
        unit, now = self._unit, self._clock()
        if unit is None or unit is not self._watched:
            self._watched, self._watched_s = unit, 0.0
        else:
            self._watched_s += min(LOOK_S, seconds(self._looked_ns, now)) / self._crowding()
        self._looked_ns = now
        return seconds(unit.began_ns, now) if unit and self._watched_s > self._limit_s() else 0.0

    def _limit_s(self) -> float:
        least = LEAST_S if self._usual else UNKNOWN_S
        return max(least, PATIENCE * max(self._slowest_s, self._slowest_before_s))
