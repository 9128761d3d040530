"""What bringing a job's adapters in took, and how much of it anyone had to wait for. Pure: intervals in, sums out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from looksmith.nouns import Tier
from services.gpu_worker.clock import seconds
from services.gpu_worker.engine.protocol import Stage


@dataclass(frozen=True)
class StageTime:
    """When a stage of bringing adapters in ran, by the worker's clock."""

    stage: Stage
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class SwapReport:
    """The swap of one job. ``tier`` is where the slowest adapter was found; None: the job needs none."""

    tier: Tier | None
    stages: tuple[StageTime, ...]
    start_ns: int
    end_ns: int
    visible_s: float
    hidden_s: float
    fetched_bytes: int

    def stage_s(self, stage: Stage) -> float:
        return _covered((s.start_ns, s.end_ns) for s in self.stages if s.stage is stage)


def swap_report(
    stages: Iterable[StageTime], *, tier: Tier | None, turn_ns: int, bound_ns: int, fetched_bytes: int
) -> SwapReport:
    """Sums up stages, which may overlap where several adapters came at once.

    Args:
        stages: what was done.
        tier: where the slowest adapter was found.
        turn_ns: when there was room for the job: what was done before is hidden, what after was waited for.
        bound_ns: when the adapters were bound; where a swap with nothing to do is placed.
        fetched_bytes: bytes that came from the store.
    """
    ordered = tuple(sorted(stages, key=lambda stage: (stage.start_ns, stage.end_ns)))
    visible = _covered((max(s.start_ns, turn_ns), s.end_ns) for s in ordered if s.end_ns > turn_ns)
    total = _covered((s.start_ns, s.end_ns) for s in ordered)
    return SwapReport(
        tier=tier,
        stages=ordered,
        start_ns=ordered[0].start_ns if ordered else bound_ns,
        end_ns=max((s.end_ns for s in ordered), default=bound_ns),
        visible_s=visible,
        hidden_s=max(0.0, total - visible),
        fetched_bytes=fetched_bytes,
    )


def _covered(intervals: Iterable[tuple[int, int]]) -> float:
    """Seconds in which at least one interval holds."""
    covered, reached = 0.0, 0
    for start, end in sorted(intervals):
        covered += seconds(max(start, reached), end)
        reached = max(reached, end)
    return covered
