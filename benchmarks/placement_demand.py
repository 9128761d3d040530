"""Who asks when: arrivals of jobs under five patterns, the same for every policy that is compared. Pure.

Knows brands by number and nothing about workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ALPHA = 1.1
#: In a flash crowd a brand of middling rank gets so much of all demand, for this part of the run.
CROWD_BRAND, CROWD_SHARE, CROWD_FROM, CROWD_TO = 50, 0.6, 0.4, 0.7
#: In a day the rate swings so far around its mean; a run has so many days.
SWING, DAYS = 0.4, 2

#: A hog asks for so many times its share, in the same part of the run.
HOG_BRAND, HOG_TIMES = 9, 10
#: Where everybody asks for too much: the least, and how many times that the greediest.
GREED = 4

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrivals:
    """``times`` ascend; ``brands[i]`` asks at ``times[i]``. ``crowd`` is from when to when one brand has most of it."""

    times: tuple[float, ...]
    brands: tuple[int, ...]
    crowd: tuple[float, float] | None = None


@dataclass(frozen=True)
class Mean:
    """What a pattern varies around: so many jobs, at so many a second, of so many brands."""

    jobs: int
    per_second: float
    brands: int


def zipf(mean: Mean, rng: np.random.Generator) -> Arrivals:
    return Arrivals(_steady(mean, rng), _drawn(_zipf_shares(mean.brands), mean, rng))


def uniform(mean: Mean, rng: np.random.Generator) -> Arrivals:
    return Arrivals(_steady(mean, rng), _drawn(np.full(mean.brands, 1 / mean.brands), mean, rng))


def flash_crowd(mean: Mean, rng: np.random.Generator) -> Arrivals:
    """Zipf, but for a while most jobs are of one brand; the rate stays."""
    calm = zipf(mean, rng)
    begins, ends = (calm.times[int(share * mean.jobs)] for share in (CROWD_FROM, CROWD_TO))
    joins = rng.random(mean.jobs) < CROWD_SHARE
    brands = tuple(
        CROWD_BRAND if begins <= time < ends and join else brand
        for time, brand, join in zip(calm.times, calm.brands, joins.tolist(), strict=True)
    )
    return Arrivals(calm.times, brands, (begins, ends))


def diurnal(mean: Mean, rng: np.random.Generator) -> Arrivals:
    """Zipf at a rate that swings like a sine."""
    day = mean.jobs / mean.per_second / DAYS
    clock = np.linspace(0, (DAYS + 1) * day, 10_000)
    expected = mean.per_second * (clock + SWING * day / math.tau * (1 - np.cos(math.tau * clock / day)))
    times = np.interp(np.cumsum(rng.exponential(1.0, mean.jobs)), expected, clock)
    return Arrivals(tuple(times.tolist()), _drawn(_zipf_shares(mean.brands), mean, rng))


def hog(mean: Mean, rng: np.random.Generator) -> Arrivals:
    """Zipf, but for a while one brand asks for ten times its share, on top of what the others do."""
    calm = zipf(mean, rng)
    begins, ends = (calm.times[int(share * mean.jobs)] for share in (CROWD_FROM, CROWD_TO))
    more = (HOG_TIMES - 1) * mean.per_second * float(_zipf_shares(mean.brands)[HOG_BRAND])
    extra = rng.uniform(begins, ends, rng.poisson(more * (ends - begins))).tolist()
    both = sorted([*zip(calm.times, calm.brands, strict=True), *((time, HOG_BRAND) for time in extra)])
    times, brands = zip(*both, strict=True)
    return Arrivals(times, brands, (begins, ends))


def greedy(mean: Mean, rng: np.random.Generator) -> Arrivals:
    """Each brand asks for a constant share, the last for four times what the first asks for."""
    weights = np.linspace(1, GREED, mean.brands)
    return Arrivals(_steady(mean, rng), _drawn(weights / weights.sum(), mean, rng))


PATTERNS: dict[str, Callable[[Mean, np.random.Generator], Arrivals]] = {
    "zipf": zipf,
    "uniform": uniform,
    "flash crowd": flash_crowd,
    "diurnal": diurnal,
    "hog": hog,
    "greedy": greedy,
}


def _zipf_shares(brands: int) -> Numbers:
    weights: Numbers = np.arange(1, brands + 1, dtype=np.float64) ** -ALPHA
    return weights / float(weights.sum())


def _steady(mean: Mean, rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(np.cumsum(rng.exponential(1 / mean.per_second, mean.jobs)).tolist())


def _drawn(shares: Numbers, mean: Mean, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.choice(mean.brands, size=mean.jobs, p=shares).tolist())
