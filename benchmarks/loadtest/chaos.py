"""When what is done to a system under load, and how many workers it shall have. Pure; others do it.

Times are shares of the run, so that a short run sees the same in the same order, less often.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

#: The run that all counts are of, in seconds: the talk's 20 minutes.
FULL_S = 1200.0
#: From which share of the run on there shall be how many workers.
SCALE = ((0.0, 2), (0.35, 4), (0.60, 1), (0.75, 2))
#: How far an act may lie from its usual share, either way, so that other seeds strike other moments.
JITTER = 0.008
#: How long a process stands still, in seconds of a full run: longer than any lease.
WORKER_STANDS_S, STORE_STANDS_S = 15.0, 60.0
#: And at least in a short one.
STANDS_AT_LEAST_S = 6.0


class Kind(StrEnum):
    """What can be done to a process."""

    KILL = "kill"
    """SIGKILL; whoever looks after processes starts it anew."""
    STAND_STILL = "stop"
    """SIGSTOP, and SIGCONT after a while."""
    SCALE = "scale"
    """Workers are started, or told to end by SIGTERM."""


@dataclass(frozen=True)
class Act:
    """``who`` is a process, or the worker of that place among those that are up; of a Kind.SCALE, their number."""

    at_s: float
    kind: Kind
    who: str
    for_s: float = 0.0


# Who, and at which shares of the run. A worker is struck while there is another; with the one that is left for a while,
# it is a router's turn. The places of workers differ, so that each is struck.
_KILLED_WORKERS = (
    (0.06, "worker-0"), (0.17, "worker-1"), (0.42, "worker-2"), (0.55, "worker-3"), (0.82, "worker-0"),
    (0.95, "worker-1"),
)  # fmt: skip
_STOPPED_WORKERS = ((0.24, "worker-0"), (0.48, "worker-1"))
_KILLED_ROUTERS = ((0.30, "router-0"), (0.68, "router-1"))
_KILLED_REGISTRIES = ((0.11, "registry-0"),)
_STOPPED_STORES = ((0.87, "store"),)


def plan(seconds: float, *, seed: int) -> tuple[Act, ...]:
    """All acts of a run, in order; in a full one 6 workers are killed, 2 stopped, 2 routers and a registry killed."""
    draws = random.Random(seed)

    def acts(usual: Sequence[tuple[float, str]], kind: Kind, for_s: float = 0.0) -> list[Act]:
        chosen = spread(usual, max(1, round(len(usual) * seconds / FULL_S)))
        for_s = min(for_s, max(STANDS_AT_LEAST_S, for_s * seconds / FULL_S)) if for_s else 0.0
        return [Act(seconds * (share + draws.uniform(-JITTER, JITTER)), kind, who, for_s) for share, who in chosen]

    return tuple(
        sorted(
            [
                *(Act(seconds * share, Kind.SCALE, str(workers)) for share, workers in SCALE[1:]),
                *acts(_KILLED_WORKERS, Kind.KILL),
                *acts(_STOPPED_WORKERS, Kind.STAND_STILL, WORKER_STANDS_S),
                *acts(_KILLED_ROUTERS, Kind.KILL),
                *acts(_KILLED_REGISTRIES, Kind.KILL),
                *acts(_STOPPED_STORES, Kind.STAND_STILL, STORE_STANDS_S),
            ],
            key=lambda act: act.at_s,
        )
    )


def spread(usual: Sequence[tuple[float, str]], count: int) -> list[tuple[float, str]]:
    """So many of them, evenly; all where there are no more."""
    count = min(count, len(usual))
    return [usual[int((place + 0.5) * len(usual) / count)] for place in range(count)]


def scheduled(seconds: float, *, acts: Sequence[Act]) -> dict[int, float]:
    """For how many seconds of a run so many workers were to be there."""
    steps = [(0.0, SCALE[0][1]), *((act.at_s, int(act.who)) for act in acts if act.kind is Kind.SCALE)]
    found: dict[int, float] = {}
    for (begins, workers), (ends, _) in zip(steps, [*steps[1:], (seconds, 0)], strict=True):
        found[workers] = found.get(workers, 0.0) + ends - begins
    return found
