"""Orders workers for a brand by weighted rendezvous hashing. Knows names and weights; knows nothing of load.

Every router computes the same order from the same names, and when a worker leaves only its own brands move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import xxhash


def rank(brand: str, workers: Mapping[str, float]) -> tuple[str, ...]:
    """Names of ``workers`` (name -> weight, over 0) in the order of preference of ``brand``, its home first.

    A worker's share of all brands is its weight over the sum of weights. The score is -w / ln(u), with u drawn from
    (brand, worker): Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005.
    """
    return _rank(brand, tuple(workers.items()))


@lru_cache(maxsize=4096)  # a placement asks for every request, the answer changes with the fleet
def _rank(brand: str, workers: tuple[tuple[str, float], ...]) -> tuple[str, ...]:
    scores = {worker: _score(brand, worker, weight) for worker, weight in workers}
    return tuple(sorted(scores, key=lambda worker: (-scores[worker], worker)))


def _score(brand: str, worker: str, weight: float) -> float:
    digest = xxhash.xxh3_64_intdigest(f"{brand}\0{worker}".encode())
    uniform = ((digest >> 12) + 0.5) / 2**52  # 52 bits: the half stays exact, so that 0 < u < 1 always holds
    return -weight / math.log(uniform)
