import random
from dataclasses import replace

import pytest

from benchmarks.asking import OK, Outcome
from benchmarks.load import Load, _arrivals
from benchmarks.router_overload import EDGE_S, _delivered

PAINTED = Outcome("acme", asked_at=100.0, ended_at=100.0 + EDGE_S, code=OK, accepted_at=100.0, gpu_seconds=0.5)


def test_arrivals_come_at_the_rate_that_was_asked_for_and_end_in_time() -> None:
    load = Load("nowhere", seconds=100.0, brands={"acme": 1.0}, rate=50.0)
    times = list(_arrivals(load, random.Random(0)))
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert times == sorted(times) and times[-1] < 100


def test_only_what_was_finished_within_the_run_counts_as_delivered() -> None:
    seconds = EDGE_S + 10
    early, late = replace(PAINTED, ended_at=100.5), replace(PAINTED, ended_at=100 + seconds + 0.1)
    failed = replace(PAINTED, code="UNAVAILABLE")
    assert _delivered([PAINTED] * 4, seconds)["gpu_seconds"] == pytest.approx(0.2)
    assert _delivered([*[PAINTED] * 4, early, late, failed], seconds)["gpu_seconds"] == pytest.approx(0.2)


def test_who_was_accepted_and_fails_was_not_refused() -> None:
    assert not replace(PAINTED, code="DEADLINE_EXCEEDED").refused
    assert replace(PAINTED, code="DEADLINE_EXCEEDED", accepted_at=None).refused
    assert not PAINTED.refused
