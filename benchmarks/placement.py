"""What placement is worth: the router's own code in virtual time beside five simpler ways to choose a worker.

python -m benchmarks.placement --json FILE --plot FILE

Every policy meets the same arrivals; ratios are taken run by run, and medians over the seeds are reported. A run's
first tenth fills the workers and is left out.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import structlog
from tqdm import tqdm

from benchmarks.placement_alone import FLEETS, decision_seconds, homes, moves
from benchmarks.placement_chart import waits
from benchmarks.placement_demand import CROWD_BRAND, CROWD_SHARE, HOG_BRAND
from benchmarks.placement_policies import ABLATIONS, BASELINES, BOUNDED, LEAST, NOISY, NOISY_JOBS, WHOLE
from benchmarks.placement_simulation import Case, Churn, Overlapped, Serial
from benchmarks.placement_sixteen import sixteen
from benchmarks.report import Bars, report
from benchmarks.simulated_workers import ADAPTER_BYTES, Journey
from looksmith.nouns import Tier

FILLING = 0.1

CASES: Mapping[str, Case] = {
    "zipf, load 0.6": Case(Serial(), "zipf", workers=4, load=0.6),
    "zipf, load 0.8": Case(Serial(), "zipf", workers=4, load=0.8),
    "uniform": Case(Serial(), "uniform", workers=4, load=0.6),
    "flash crowd": Case(Serial(), "flash crowd", workers=8, load=0.6),
    "diurnal": Case(Serial(), "diurnal", workers=4, load=0.6),
    "churn": Case(Serial(), "zipf", workers=4, load=0.6, churn=Churn()),
    "hog": Case(Serial(), "hog", workers=4, load=0.6),
    # So few brands that all adapters fit onto every device, and swaps don't hide what the queue does.
    "all greedy": Case(Serial(), "greedy", workers=4, load=3.0, brands=8),
    "world B": Case(Overlapped(), "zipf", workers=4, load=0.8),
}
CALM, BUSY, CROWD, WORLD_B = "zipf, load 0.6", "zipf, load 0.8", "flash crowd", "world B"
HOG, GREEDY = "hog", "all greedy"
COMPARED = (WHOLE, *BASELINES)
MORE = {BUSY: (NOISY, NOISY_JOBS, *ABLATIONS), WORLD_B: tuple(ABLATIONS)}
PERCENTILES = (50, 95, 99)

#: What must hold, and which way.
BARS: Bars = {
    "moved_others": ("<=", 0),
    **{f"moved_share_{size}": ("<=", 1 / size + 0.02) for size in FLEETS},
    "homes_disagreed": ("<=", 0),
    "home_share": (">=", 0.9),
    "p99_vs_bounded": ("<=", 0.75),
    "p99_vs_least_request": ("<=", 0.3),
    "cold_vs_bounded": ("<=", 1),
    "noisy_p95_vs_bounded": ("<=", 1),
    **{f"b_p{percent}_vs_best": ("<=", 1.05) for percent in PERCENTILES},
    "store_bytes_vs_least_request": ("<=", 0.5),
    "crowd_replicas_s": ("<=", 2),
    "crowd_others_p95_vs_calm": ("<=", 1.1),
    "hog_others_p95_vs_calm": ("<=", 1.1),
    "jain": (">=", 0.95),
    "sixteen_on_four_workers": ("<=", 0.35),
    "single_delayed_by_batches": ("<=", 1),
    "decision_8_ms": ("<=", 0.2),
    "decision_64_ms": ("<=", 0.5),
}

#: Figures of one run.
Run = Mapping[str, float]
#: Runs of every seed, by policy, by case.
Runs = Mapping[str, Mapping[str, Sequence[Run]]]


def run(case: str, policy: str, jobs: int, seed: int) -> dict[str, float]:
    """The figures of one run; a job's seconds are from its arrival to its last byte."""
    outcome = CASES[case].run(policy, jobs=jobs, seed=seed)
    counted = outcome.journeys[int(FILLING * jobs) :]
    figures = {
        **{f"p{percent}_s": value for percent, value in _percentiles(counted).items()},
        "cold_share": sum(journey.found is Tier.STORE for journey in counted) / len(counted),
        "home_share": sum(journey.held for journey in counted) / len(counted),
        "refused_share": sum(journey.refused for journey in counted) / len(counted),
        "store_gb": sum(time >= counted[0].arrived for time in outcome.fetches) * ADAPTER_BYTES / 1e9,
    }
    if case == CROWD:
        figures |= _of_crowd(counted, CASES[case], jobs, seed)
    if case == HOG:
        begins, ends = CASES[case].demand(jobs=jobs, seed=seed).crowd or (0.0, 0.0)
        figures["hog_others_p95_vs_calm"] = _others_p95_vs_calm(counted, HOG_BRAND, begins, ends)
    if case == GREEDY:
        figures["jain"] = _jain(counted)
    return figures


def _percentiles(journeys: Sequence[Journey]) -> dict[int, float]:
    values = np.percentile([journey.seconds for journey in journeys], PERCENTILES)
    return dict(zip(PERCENTILES, values.tolist(), strict=True))


def _of_crowd(journeys: Sequence[Journey], case: Case, jobs: int, seed: int) -> dict[str, float]:
    """How soon the crowd's brand is given as many workers as it needs, and what the others' p95 does meanwhile."""
    begins, ends = case.demand(jobs=jobs, seed=seed).crowd or (0.0, 0.0)
    crowd = [j for j in journeys if j.brand == CROWD_BRAND and begins <= j.arrived < ends]
    first_bound: dict[str, float] = {}
    for journey in crowd:
        first_bound.setdefault(journey.worker, journey.bound)
    needed = math.ceil(CROWD_SHARE * case.load * case.workers)
    given = sorted(first_bound.values())
    return {
        "crowd_replicas_s": (given[needed - 1] if len(given) >= needed else ends) - begins,
        "crowd_others_p95_vs_calm": _others_p95_vs_calm(journeys, CROWD_BRAND, begins, ends),
    }


def _others_p95_vs_calm(journeys: Sequence[Journey], brand: int, begins: float, ends: float) -> float:
    """What the p95 of all but one brand does while that one asks for so much."""
    others = [journey for journey in journeys if journey.brand != brand]
    calm = _percentiles([journey for journey in others if journey.arrived < begins])
    during = _percentiles([journey for journey in others if begins <= journey.arrived < ends])
    return during[95] / calm[95]


def _jain(journeys: Sequence[Journey]) -> float:
    """Jain's index of what brands got that all had something waiting: 1 if all got the same.

    Jobs cost a GPU-second each. The end of a run is left out: there is more and more room once nobody comes.
    """
    last = max(journey.arrived for journey in journeys)
    got = Counter(journey.brand for journey in journeys if not journey.refused and journey.finished < last)
    shares = list(got.values())
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def alone() -> dict[str, float]:
    """Homes, decisions, and a request of sixteen: what needs no load."""
    figures, moved_others = dict[str, float](), 0
    for size in tqdm(FLEETS, desc="fleets that lose a worker"):
        others, share = moves(size)
        moved_others += others
        figures[f"moved_share_{size}"] = share
    decisions = {f"decision_{size}_ms": decision_seconds(size) * 1e3 for size in (8, 64)}
    return {"moved_others": float(moved_others), **figures, **decisions, **sixteen()}


def homes_disagreed(pool: ProcessPoolExecutor) -> float:
    """Brands on whose home two processes differ that met the workers in another order."""
    workers = [f"worker-{number}" for number in range(max(FLEETS))]
    return float(sum(a != b for a, b in zip(pool.submit(homes, workers).result(), homes(workers[::-1]), strict=True)))


def compared(runs: Runs) -> dict[str, float]:
    """What the issue asks for: medians over the seeds, ratios between runs of the same arrivals."""
    busy, world_b, best = runs[BUSY], runs[WORLD_B], "the best baseline"
    beside = {**world_b, best: [_best(each) for each in zip(*(world_b[name] for name in BASELINES), strict=True)]}
    return {
        "home_share": _middle(runs[CALM][WHOLE], "home_share"),
        "home_share_least_request": _middle(runs[CALM][LEAST], "home_share"),
        "p99_vs_bounded": _ratio(busy, "p99_s", WHOLE, BOUNDED),
        "p99_vs_least_request": _ratio(busy, "p99_s", WHOLE, LEAST),
        "cold_share": _middle(busy[WHOLE], "cold_share"),
        "cold_share_bounded": _middle(busy[BOUNDED], "cold_share"),
        "cold_vs_bounded": _ratio(busy, "cold_share", WHOLE, BOUNDED),
        "noisy_p95_vs_bounded": _ratio(busy, "p95_s", NOISY, BOUNDED),
        "noisy_jobs_p95_vs_bounded": _ratio(busy, "p95_s", NOISY_JOBS, BOUNDED),
        **{f"b_p{percent}_vs_best": _ratio(beside, f"p{percent}_s", WHOLE, best) for percent in PERCENTILES},
        "store_bytes_vs_least_request": _ratio(world_b, "store_gb", WHOLE, LEAST),
        "crowd_replicas_s": _middle(runs[CROWD][WHOLE], "crowd_replicas_s"),
        "crowd_others_p95_vs_calm": _middle(runs[CROWD][WHOLE], "crowd_others_p95_vs_calm"),
        "hog_others_p95_vs_calm": _middle(runs[HOG][WHOLE], "hog_others_p95_vs_calm"),
        "jain": _middle(runs[GREEDY][WHOLE], "jain"),
        **{f"p99_{part}".replace(" ", "_"): _ratio(busy, "p99_s", part, WHOLE) for part in ABLATIONS},
        **{f"cold_{part}".replace(" ", "_"): _ratio(busy, "cold_share", part, WHOLE) for part in ABLATIONS},
    }


def _middle(runs: Sequence[Run], figure: str) -> float:
    return median(run[figure] for run in runs)


def _ratio(case: Mapping[str, Sequence[Run]], figure: str, of: str, to: str) -> float:
    return median(a[figure] / b[figure] for a, b in zip(case[of], case[to], strict=True))


def _best(runs: Sequence[Run]) -> Run:
    """The least of each figure, whichever run it is of."""
    return {figure: min(run[figure] for run in runs) for figure in runs[0]}


def table(runs: Runs) -> dict[str, dict[str, dict[str, float]]]:
    """Every figure's median over the seeds, by policy, by case; printed as well."""
    medians = {
        case: {policy: {figure: _middle(of, figure) for figure in of[0]} for policy, of in policies.items()}
        for case, policies in runs.items()
    }
    for case, policies in medians.items():
        print(f"\n{case:22s}     p50 s     p95 s     p99 s   cold   home  store GB")
        for policy, figures in policies.items():
            times = "".join(f"{figures[f'p{percent}_s']:10.2f}" for percent in PERCENTILES)
            shares = f"{figures['cold_share']:7.3f}{figures['home_share']:7.3f}"
            print(f"  {policy:20s}{times}{shares}{figures['store_gb']:10.1f}")
    print()
    return medians


def quiet() -> None:
    """A fleet tells of every worker that joins."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw what jobs waited here")
    parser.add_argument("--jobs", type=int, default=10_000, help="of each run; %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each policy in each case; %(default)s")
    arguments = parser.parse_args()
    wanted = [
        (case, policy, arguments.jobs, seed)
        for case in CASES
        for policy in (*COMPARED, *MORE.get(case, ()))
        for seed in range(arguments.seeds)
    ]
    figures = alone()  # first: decisions are timed, and the pool would be in the way
    runs: dict[str, dict[str, list[Run]]] = {case: {} for case in CASES}
    fresh = multiprocessing.get_context("spawn")  # with hash seeds of their own, as routers have
    with ProcessPoolExecutor(os.cpu_count(), mp_context=fresh, initializer=quiet) as pool:
        figures["homes_disagreed"] = homes_disagreed(pool)
        done = pool.map(run, *zip(*wanted, strict=True))
        for (case, policy, _, _), of_run in zip(wanted, tqdm(done, desc="runs", total=len(wanted)), strict=True):
            runs[case].setdefault(policy, []).append(of_run)
    cases = table(runs)
    settings = {"jobs": arguments.jobs, "seeds": arguments.seeds}
    all_held = report(figures | compared(runs), BARS, file=arguments.json, settings=settings, cases=cases)
    if arguments.plot:
        waits(cases).savefig(arguments.plot, metadata={"Date": None})
    sys.exit(not all_held)


if __name__ == "__main__":
    main()
