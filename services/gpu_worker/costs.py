"""What painting costs here, as moving averages of what was measured. Pure; knows nothing about who asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

#: Share of the newest measurement: a handful of jobs outweighs what a cold start cost.
_NEWEST = 0.2

#: What is painted alike: recipe, width and height.
_Kind: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True)
class Work:
    """What decides the cost of a job. ``rows``: of one image, 2 where it is guided."""

    recipe: str
    width: int
    height: int
    steps: int
    images: int
    rows: int = 1


@dataclass(frozen=True)
class Cost:
    """Seconds of one step of ``rows`` rows, and of all else about one image that was finished among so many."""

    recipe: str
    width: int
    height: int
    rows: int
    step_s: float
    fixed_s: float


class StepTimes:
    """What the steps of one job took, by the rows of their batches."""

    def __init__(self) -> None:
        self._seconds: defaultdict[int, float] = defaultdict(float)
        self._steps: defaultdict[int, int] = defaultdict(int)
        self.share_s = 0.0  # of the device, by the job's own rows
        self.last_rows = 0  # of the batch that its last step was in

    def add(self, took_s: float, *, batch_rows: int, own_rows: int) -> None:
        """A step of one of its images, which has ``own_rows`` of the batch's."""
        self._seconds[batch_rows] += took_s
        self._steps[batch_rows] += 1
        self.share_s += took_s * own_rows / batch_rows
        self.last_rows = batch_rows

    def means(self) -> dict[int, float]:
        """Seconds of a step, by the rows of its batch."""
        return {rows: took / self._steps[rows] for rows, took in self._seconds.items()}


class MeasuredCosts:
    def __init__(self) -> None:
        self._steps: defaultdict[_Kind, dict[int, float]] = defaultdict(dict)  # by rows
        self._rest: defaultdict[_Kind, dict[int, float]] = defaultdict(dict)  # by rows

    def known(self) -> tuple[Cost, ...]:
        """Every batch that was seen, smallest first.

        For one in which no image was finished, ``fixed_s`` is that of the next smaller one where some were, or else of
        the smallest.
        """
        return tuple(
            Cost(*kind, rows, self._steps[kind][rows], _nearest(rest, rows))
            for kind, rest in self._rest.items()
            for rows in sorted(self._steps[kind])
        )

    def observe(self, work: Work, steps: StepTimes, *, total_s: float) -> None:
        """Learns from a job that took ``total_s`` of the device, its steps included."""
        if not work.images or not steps.last_rows:
            return
        kind = (work.recipe, work.width, work.height)
        for rows, took_s in steps.means().items():
            _follow(self._steps[kind], rows, took_s)
        _follow(self._rest[kind], steps.last_rows, max(0.0, total_s - steps.share_s) / work.images)

    def estimate_s(self, work: Work) -> float:
        """Seconds of the device that a job will take, by the smallest batch seen; 0 before its like was painted."""
        kind = (work.recipe, work.width, work.height)
        if kind not in self._rest:
            return 0.0
        steps = self._steps[kind]
        smallest = min(steps)
        step_s = steps[smallest] * work.rows / smallest
        return work.images * (work.steps * step_s + _nearest(self._rest[kind], smallest))


def _follow(averages: dict[int, float], rows: int, newest: float) -> None:
    before = averages.get(rows, newest)
    averages[rows] = before + _NEWEST * (newest - before)


def _nearest(by_rows: Mapping[int, float], rows: int) -> float:
    return by_rows[max((seen for seen in by_rows if seen <= rows), default=min(by_rows))]
