"""What painting costs here, as moving averages of what was measured. Pure; knows nothing about who asks."""

from __future__ import annotations

from dataclasses import dataclass

#: Share of the newest measurement: a handful of jobs outweighs what a cold start cost.
_NEWEST = 0.2


@dataclass(frozen=True)
class Work:
    """What decides the cost of a job."""

    recipe: str
    width: int
    height: int
    steps: int
    images: int


@dataclass(frozen=True)
class Cost:
    """Seconds of one step, and of all else about one image, at one row."""

    recipe: str
    width: int
    height: int
    step_s: float
    fixed_s: float


class MeasuredCosts:
    def __init__(self) -> None:
        self._costs: dict[tuple[str, int, int], Cost] = {}

    def known(self) -> tuple[Cost, ...]:
        return tuple(self._costs.values())

    def observe(self, work: Work, *, denoise_s: float, total_s: float) -> None:
        """Learns from a job that took ``total_s`` on the device, ``denoise_s`` of them in steps."""
        if not work.images:
            return
        step_s = denoise_s / (work.steps * work.images)
        fixed_s = max(0.0, total_s - denoise_s) / work.images
        key = (work.recipe, work.width, work.height)
        if before := self._costs.get(key):
            step_s = before.step_s + _NEWEST * (step_s - before.step_s)
            fixed_s = before.fixed_s + _NEWEST * (fixed_s - before.fixed_s)
        self._costs[key] = Cost(*key, step_s, fixed_s)

    def estimate_s(self, work: Work) -> float:
        """Seconds on the device that a job will take; 0 before anything like it was painted."""
        cost = self._costs.get((work.recipe, work.width, work.height))
        return work.images * (work.steps * cost.step_s + cost.fixed_s) if cost else 0.0
