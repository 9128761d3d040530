"""Times contenders in turn, so that what disturbs the machine disturbs them alike; knows nothing of what they do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

#: A contender's run: seconds of what counts. What it prepares and cleans up is left out.
Run = Callable[[int], float]


def interleaved(contenders: Mapping[str, Run], *, repeats: int, what: str, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each contender; run i of all comes before run i + 1 of any."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(warm_up + repeats), desc=what):
        for name, run in contenders.items():
            took = run(turn)
            if turn >= warm_up:
                seconds[name].append(took)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
