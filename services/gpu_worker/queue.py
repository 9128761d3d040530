"""Whose turn it is: brands in rotation, earliest deadline first within one, only jobs whose adapters are here.

Pure bookkeeping; knows nothing about engines, adapters or time beyond the deadlines it is given.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from services.gpu_worker.errors import WorkerFull

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A bounded queue, fair between brands: each gets one turn a round, however many jobs it has."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._brands: OrderedDict[str, list[tuple[float, int, T]]] = OrderedDict()  # next to be served first
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._brands.values()))

    def push(self, item: T, *, brand: str, deadline: float, retry_after_s: float) -> None:
        """Adds a job that should be done at ``deadline``; ``math.inf`` if it may take as long as it likes.

        Raises:
            WorkerFull: ``limit`` jobs wait already.
        """
        if len(self) >= self._limit:
            raise WorkerFull(len(self), retry_after_s)
        waiting = self._brands.setdefault(brand, [])
        waiting.append((deadline, next(self._numbers), item))
        waiting.sort(key=lambda entry: entry[:2])

    def take(self, ready: Callable[[T], bool]) -> T | None:
        """The job whose turn it is among those that are ready; its brand goes to the end of the rotation."""
        for brand, waiting in self._brands.items():
            for entry in waiting:
                if ready(entry[2]):
                    self._drop(brand, entry)
                    if brand in self._brands:
                        self._brands.move_to_end(brand)
                    return entry[2]
        return None

    def remove(self, item: T) -> bool:
        """Takes a job out, whose turn never came. False if it is not here."""
        for brand, waiting in self._brands.items():
            for entry in waiting:
                if entry[2] is item:
                    self._drop(brand, entry)
                    return True
        return False

    def _drop(self, brand: str, entry: tuple[float, int, T]) -> None:
        self._brands[brand].remove(entry)
        if not self._brands[brand]:
            del self._brands[brand]
