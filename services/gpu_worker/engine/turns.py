"""Which job's picture gets the rows that are free: brands get them in equal numbers while all have work. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, TypeVar

from services.gpu_worker.engine.protocol import EngineJob


class Seatable(Protocol):
    """A job whose pictures share batches with others'."""

    @property
    def job(self) -> EngineJob: ...

    @property
    def under_way(self) -> int:
        """Pictures of it that have rows."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it has not begun, or has pictures without rows."""
        ...


J = TypeVar("J", bound=Seatable)


def rows_of(job: EngineJob) -> int:
    """Rows of one of its pictures: a guided one takes two."""
    return 2 if job.guidance > 1 else 1


def next_to_seat(jobs: Collection[J], free_rows: int) -> J | None:
    """The job whose brand has the fewest rows under way; among a brand's, the one that came first.

    None if it needs more rows than are free: smaller ones that came later don't pass it by for ever.
    """
    rows = dict.fromkeys((job.job.brand for job in jobs), 0)
    for job in jobs:
        rows[job.job.brand] += job.under_way * rows_of(job.job)
    first = min((job for job in jobs if job.waits), key=lambda job: rows[job.job.brand], default=None)
    return first if first and rows_of(first.job) <= free_rows else None
