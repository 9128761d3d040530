"""How many homes each brand needs: as many workers as its demand keeps busy. Pure; knows nothing of workers.

Up at once, down only after a while: a home that is given up has to fetch everything again when demand is back.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

#: Seconds over which demand is averaged to find a crowd. With 10 it came too late; 4 and 2 did alike, 2 a little
#: better (benchmarks/placement.py).
AVERAGED_S = 2.0
#: Seconds for which a brand keeps the homes that it once needed.
KEPT_S = 60.0
#: A brand with so many jobs within KEPT_S or so is worth a second home, which takes over when the first is lost.
STEADY_JOBS = 10.0
#: Brands that are remembered; who is forgotten has one home.
BRANDS = 10_000


@dataclass
class _Demand:
    at: float
    gpu_seconds: float = 0.0  # of the last AVERAGED_S, decaying
    jobs: float = 0.0  # of the last KEPT_S, decaying
    homes: int = 1
    needed_at: float = -math.inf


class Demand:
    def __init__(self) -> None:
        self._brands: OrderedDict[str, _Demand] = OrderedDict()

    def homes(self, brand: str) -> int:
        """How many workers are homes of a brand: may hold its adapters without having to be much ahead of others."""
        demand = self._brands.get(brand)
        return demand.homes if demand else 1

    def warm(self, brand: str) -> int:
        """How many workers shall hold its adapters before they are asked for."""
        demand = self._brands.get(brand)
        return max(demand.homes, 2 if demand.jobs >= STEADY_JOBS else 1) if demand else 1

    def note(self, brand: str, gpu_seconds: float, now: float) -> None:
        """A job has come, of ``gpu_seconds`` of work."""
        demand = self._brands.setdefault(brand, _Demand(now))
        self._brands.move_to_end(brand)
        if len(self._brands) > BRANDS:
            self._brands.popitem(last=False)
        passed = now - demand.at
        demand.gpu_seconds = demand.gpu_seconds * math.exp(-passed / AVERAGED_S) + gpu_seconds
        demand.jobs = demand.jobs * math.exp(-passed / KEPT_S) + 1
        demand.at = now
        needed = max(1, math.ceil(demand.gpu_seconds / AVERAGED_S))
        if needed >= demand.homes or now - demand.needed_at > KEPT_S:
            demand.homes, demand.needed_at = needed, now
