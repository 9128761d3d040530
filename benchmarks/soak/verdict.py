"""What has grown from the first quarter of a soak to its end, and what has failed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.report import Bars
from benchmarks.soak.ledger import Rest

MOST_MIB = 16.0
#: What may not grow at all.
KEPT = ("descriptors", "threads", "tasks", "spans", "uploads", "leases")

BARS: Bars = {
    "failures": ("<=", 0),
    "memory_mib": ("<=", MOST_MIB),
    **{f"{name}_more": ("<=", 0) for name in KEPT},
    "store_uploads_more": ("<=", 0),
}


def figures(rests: Sequence[Mapping[str, Rest]], uploads: Sequence[int]) -> dict[str, float]:
    """Between two rests, the first after a quarter of all requests: of each figure that of the worst process."""
    first, last = rests[0], rests[-1]
    grown = {name: (last[name].memory - first[name].memory) / 2**20 for name in first}
    return {
        **{f"{name}_memory_mib": mib for name, mib in grown.items()},
        "memory_mib": max(grown.values()),
        **{
            f"{kept}_more": float(max(getattr(last[name], kept) - getattr(first[name], kept) for name in first))
            for kept in KEPT
        },
        "store_uploads_more": float(uploads[-1] - uploads[0]),
    }
