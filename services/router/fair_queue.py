"""Whose turn it is: brands by deficit round robin in GPU-seconds, the earliest deadline first within one. Pure.

Knows what each entry costs and when it is due; who may serve an entry is asked of whoever takes one.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

#: So many of its own next entries a brand may have saved up while no worker could take any of them: enough to catch
#: up with brands that other workers served meanwhile, too little to shut them out for long.
MOST_SAVED = 8.0


@dataclass(frozen=True, order=True)
class _Entry(Generic[T]):
    deadline: float
    number: int
    brand: str = field(compare=False)
    cost: float = field(compare=False)
    item: T = field(compare=False)


@dataclass(eq=False)
class _Flow(Generic[T]):
    """One brand's entries, the most urgent first, and the GPU-seconds that it has coming: its deficit."""

    weight: float
    entries: list[_Entry[T]] = field(default_factory=list)
    deficit: float = 0.0


class FairQueue(Generic[T]):
    """Serves backlogged brands GPU-seconds in proportion to their weights, whatever their entries cost each.

    Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) with a quantum that tends to 0: in each round every
    brand is credited by weight, and the first whose credit pays for its next entry is served. A brand that nobody can
    serve at the moment is credited too, so that GPU-seconds even out over workers of which each can serve only some.
    """

    def __init__(self) -> None:
        self._flows: OrderedDict[str, _Flow[T]] = OrderedDict()  # in the order of the round
        self._entries: dict[T, _Entry[T]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def waiting(self, brand: str) -> int:
        """Entries of one brand."""
        flow = self._flows.get(brand)
        return len(flow.entries) if flow else 0

    def push(self, item: T, *, brand: str, weight: float, cost: float, deadline: float) -> None:
        """Adds an entry of ``cost`` GPU-seconds; 0: it has been paid for, and its brand need not wait for credit."""
        flow = self._flows.setdefault(brand, _Flow(weight))
        flow.weight = weight
        entry = _Entry(deadline, next(self._numbers), brand, cost, item)
        bisect.insort(flow.entries, entry)
        self._entries[item] = entry

    def take(self, may: Callable[[T], bool]) -> T | None:
        """The entry whose turn it is among those that ``may`` be served; None if there is none."""
        firsts = [(flow, entry) for flow in self._flows.values() if (entry := _first(flow, may))]
        if not firsts:
            return None
        credit = min(max(0.0, entry.cost - flow.deficit) / flow.weight for flow, entry in firsts)
        for flow in self._flows.values():
            saved = max(flow.deficit, MOST_SAVED * flow.entries[0].cost)
            flow.deficit = min(flow.deficit + credit * flow.weight, saved)
        # The least shortfall, not the first of none: what is left after crediting may be a rounding error.
        flow, entry = min(firsts, key=lambda first: max(0.0, first[1].cost - first[0].deficit))
        flow.deficit -= entry.cost
        self._drop(entry)
        if entry.brand in self._flows:
            self._flows.move_to_end(entry.brand)
        return entry.item

    def remove(self, item: T) -> bool:
        """Takes an entry out whose turn never came. False if it is not here."""
        entry = self._entries.get(item)
        if entry is None:
            return False
        self._drop(entry)
        return True

    def due(self, now: float) -> Iterator[T]:
        """Entries whose deadline has come."""
        for flow in self._flows.values():
            for entry in itertools.takewhile(lambda entry: entry.deadline <= now, flow.entries):
                yield entry.item

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def _drop(self, entry: _Entry[T]) -> None:
        """A brand that has nothing left keeps no credit: it would otherwise save up by asking for nothing."""
        del self._entries[entry.item]
        flow = self._flows[entry.brand]
        flow.entries.remove(entry)
        if not flow.entries:
            del self._flows[entry.brand]


def _first(flow: _Flow[T], may: Callable[[T], bool]) -> _Entry[T] | None:
    return next((entry for entry in flow.entries if may(entry.item)), None)
