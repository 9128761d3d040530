"""The worker's clock: nanoseconds since the epoch that never run backwards. Knows nothing about what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Gives nanoseconds since the epoch; spans take them as they are, differences are durations.
Clock = Callable[[], int]


def steady_clock() -> Clock:
    """A clock that takes the time of day once and from then on counts: an adjusted wall clock moves no span."""
    offset = time.time_ns() - time.perf_counter_ns()
    return lambda: time.perf_counter_ns() + offset


def seconds(start_ns: int, end_ns: int) -> float:
    return max(0, end_ns - start_ns) / 1e9
