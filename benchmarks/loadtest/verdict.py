"""What a load test has shown: failures, duplicates, pictures of a wrong brand, the longest silence, latencies.

Judges what users kept; how a system came to be asked, and disturbed, is others'.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.loadtest.users import Request
from benchmarks.references import TRIPLES, Picture
from benchmarks.report import Bars

#: An engine is right within one level at so many of the pixels.
RIGHT_LEVELS, RIGHT_PART = 1, 0.999
#: What must hold however long a run is. Failures of the system are failures of the run.
BARS: Bars = {
    "failures": ("<=", 0),
    "duplicates": ("<=", 0),
    "gaps": ("<=", 0),
    "wrong_brand": ("<=", 0),
    "wrong_adapter": ("<=", 0),
    "wrong_seed": ("<=", 0),
    "longest_gap_s": ("<=", 10),
    "goodput_vs_capacity": (">=", 0.8),
}


@dataclass(frozen=True)
class Window:
    """When the system was under load, by ``time.monotonic``."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def figures(requests: Sequence[Request], window: Window, digests: Mapping[str, str]) -> dict[str, float]:
    """All but what pictures show. ``digests``: of each brand's adapter, as it was published."""
    well = [request for request in requests if not request.error]
    faults = sum((request.faults for request in requests), Counter[str]())
    took = [request.took_s for request in well] or [0.0]
    return {
        "requests": float(len(requests)),
        "failures": float(len(requests) - len(well) + faults["missing"]),
        "duplicates": float(faults["duplicates"]),
        "gaps": float(faults["gaps"] + faults["restarted without a part"]),
        "wrong_adapter": float(sum(request.digests != (digests[request.brand],) for request in well)),
        "wrong_seed": float(sum(request.seed != TRIPLES[request.triple].seed for request in well)),
        "longest_gap_s": longest_gap([request.ended for request in well], window),
        "pictures_per_s": len(delivered(well, window)) / window.seconds,
        **{f"p{percent}_s": float(np.percentile(took, percent)) for percent in (50, 95, 99)},
        "slowest_s": max(took),
        "swap_share": sum(request.visible_s for request in well) / sum(took) if well else 0.0,
        "retried": float(sum(request.retries > 0 for request in requests)),
        "resumed": float(sum(request.resumed > 0 for request in requests)),
        "redispatched": float(sum(request.attempts > 1 for request in requests)),
        "stale": float(sum(request.stale for request in requests)),
    }


def delivered(requests: Iterable[Request], window: Window) -> list[Request]:
    """Those whose picture was there within the window."""
    return [each for each in requests if not each.error and window.began <= each.ended <= window.ended]


def longest_gap(at: Sequence[float], window: Window) -> float:
    """The longest time in which nothing ended well, beginning and end of the window included."""
    within = sorted(time for time in at if window.began <= time <= window.ended)
    return max(later - earlier for earlier, later in pairwise([window.began, *within, window.ended]))


def tiers(requests: Iterable[Request]) -> dict[str, float]:
    """Where adapters were found, as shares of the requests that ended well."""
    found = Counter(request.tier for request in requests if not request.error)
    return {tier: count / found.total() for tier, count in found.most_common()}


def look(
    requests: Sequence[Request], pictures: Mapping[str, bytes], painted: Mapping[str, tuple[Picture, ...]]
) -> dict[str, float]:
    """What pictures show. ``painted``: each brand's references, one a triple."""
    names = list(painted)
    wrong, off, nearest = Counter[str](), 0, 0.0
    different = {(r.picture, r.brand, r.triple) for r in requests if not r.error and r.picture in pictures}
    times = Counter((r.picture, r.brand, r.triple) for r in requests if not r.error)
    stacks = [np.stack([painted[name][triple] for name in names]).astype(np.int16) for triple in range(len(TRIPLES))]
    for digest, brand, triple in tqdm(sorted(different), desc="pictures compared", disable=None):
        picture = np.asarray(Image.open(io.BytesIO(pictures[digest])).convert("RGB"), np.int16)
        distances = mean_differences(picture, stacks[triple])
        own = names.index(brand)
        if (found := names[int(distances.argmin())]) != brand:
            wrong[found] += times[digest, brand, triple]
        off += times[digest, brand, triple] * (not is_right(picture, stacks[triple][own]))
        nearest = max(nearest, float(distances[own] / np.delete(distances, own).min()) if len(names) > 1 else 0.0)
    return {
        "wrong_brand": float(wrong.total()),
        "different_pictures": float(len(different)),
        "pictures_beyond_a_level": float(off),
        "nearest_to_another": nearest,
    }


def mean_differences(picture: NDArray[np.int16], references: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean absolute difference of a picture [height, width, 3] from each of many, in levels."""
    return np.asarray(np.abs(references - picture).mean(axis=(1, 2, 3)))


def is_right(picture: NDArray[np.int16], reference: NDArray[np.int16]) -> bool:
    """Within one level at nearly all pixels."""
    return bool((np.abs(picture - reference).max(axis=2) <= RIGHT_LEVELS).mean() >= RIGHT_PART)
