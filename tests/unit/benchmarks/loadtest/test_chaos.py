from collections import Counter

import pytest

from benchmarks.loadtest.chaos import FULL_S, SCALE, Act, Kind, plan, scheduled

#: What a full run has at least.
WANTED = {
    (Kind.KILL, "worker"): 6,
    (Kind.STAND_STILL, "worker"): 2,
    (Kind.KILL, "router"): 2,
    (Kind.KILL, "registry"): 1,
    (Kind.STAND_STILL, "store"): 1,
    (Kind.SCALE, "4"): 1,
    (Kind.SCALE, "1"): 1,
    (Kind.SCALE, "2"): 1,
}


def counted(acts: tuple[Act, ...]) -> dict[tuple[Kind, str], int]:
    return dict(Counter((act.kind, act.who.partition("-")[0]) for act in acts))


def workers_at(seconds: float, when: float) -> int:
    return next(workers for share, workers in reversed(SCALE) if share * seconds <= when)


def test_a_full_run_strikes_as_often_as_promised() -> None:
    assert counted(plan(FULL_S, seed=0)) == WANTED


@pytest.mark.parametrize("seconds", [30.0, 120.0, 600.0])
def test_a_short_run_sees_each_at_least_once_and_none_more_often_than_its_share(seconds: float) -> None:
    for what, count in counted(plan(seconds, seed=3)).items():
        assert count == max(1, round(WANTED[what] * seconds / FULL_S)), what


@pytest.mark.parametrize("seconds", [30.0, 120.0, 1200.0])
@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_struck_is_there_and_a_worker_is_not_the_only_one(seconds: float, seed: int) -> None:
    for act in plan(seconds, seed=seed):
        assert 0 <= act.at_s < seconds
        if act.who.startswith("worker-"):
            up = workers_at(seconds, act.at_s)
            assert up > 1
            assert int(act.who.removeprefix("worker-")) < up


def test_the_store_stands_still_for_a_minute_and_comes_back_before_the_end() -> None:
    (stop,) = (act for act in plan(FULL_S, seed=0) if act.who == "store")
    assert stop.for_s == 60
    assert stop.at_s + stop.for_s < FULL_S


def test_other_seeds_strike_at_other_moments() -> None:
    assert plan(FULL_S, seed=1) == plan(FULL_S, seed=1) != plan(FULL_S, seed=2)


def test_how_long_so_many_workers_were_to_be_there_adds_up_to_the_run() -> None:
    assert scheduled(1200, acts=plan(1200, seed=0)) == {2: pytest.approx(720), 4: pytest.approx(300), 1: 180}
    assert scheduled(100, acts=()) == {2: 100}
