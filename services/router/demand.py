"""How many homes each brand needs: as many workers as its demand keeps busy. Pure; knows nothing of workers.

Up at once, down only after a while: a home that is given up has to fetch everything again when demand is back.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

#: Seconds over which demand is averaged. With 10 homes came too late; 4 and 2 did alike, 2 a little better
#: (benchmarks/placement.py).
AVERAGED_S = 2.0
#: A crowd is found sooner: by what came within so many seconds, where that is so many times what is usual. Brands that
#: are always asked for a lot are left out: with 1 s for all they had many homes that earned nothing.
CROWD_S, CROWD_TIMES = 0.7, 4.0
#: Less work than so many jobs, decayed, is no crowd: some three within half a second.
CROWD_JOBS = 1.8
#: Seconds for which a brand keeps the homes that it once needed.
KEPT_S = 60.0
#: A brand with so many jobs within KEPT_S or so is worth a second home, which takes over when the first is lost.
STEADY_JOBS = 10.0
#: Brands that are remembered; who is forgotten has one home.
BRANDS = 10_000


@dataclass
class _Demand:
    at: float
    # GPU-seconds of the last so many seconds, decaying
    crowd: float = 0.0
    averaged: float = 0.0
    usual: float = 0.0  # of the last KEPT_S
    jobs: float = 0.0  # likewise
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
        demand.crowd = demand.crowd * math.exp(-passed / CROWD_S) + gpu_seconds
        demand.averaged = demand.averaged * math.exp(-passed / AVERAGED_S) + gpu_seconds
        demand.usual = demand.usual * math.exp(-passed / KEPT_S) + gpu_seconds
        demand.jobs = demand.jobs * math.exp(-passed / KEPT_S) + 1
        demand.at = now
        busy = demand.averaged / AVERAGED_S
        unusual = demand.crowd / CROWD_S > CROWD_TIMES * demand.usual / KEPT_S
        if unusual and demand.crowd > CROWD_JOBS * gpu_seconds:
            busy = max(busy, demand.crowd / CROWD_S)
        needed = max(1, math.ceil(busy))
        if needed >= demand.homes or now - demand.needed_at > KEPT_S:
            demand.homes, demand.needed_at = needed, now
