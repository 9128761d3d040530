from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from services.gpu_worker.crowding import crowding
from services.gpu_worker.progress import LEAST_S, LOOK_S, PATIENCE, UNKNOWN_S, WINDOW_S, Progress


class Timer:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> int:
        return round(self.now_s * 1e9)


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def progress(timer: Timer) -> Progress:
    return Progress(clock=timer, crowding=lambda: 1.0)


def unit(progress: Progress, timer: Timer, took_s: float, *, painted: bool = True) -> None:
    progress.begin()
    timer.now_s += took_s
    progress.end(painted=painted)


def watch(progress: Progress, timer: Timer, for_s: float, *, every_s: float = 1.0) -> float:
    """Looks as often as told while nothing ends; what the last look said."""
    said = progress.stalled_s()
    for _ in range(round(for_s / every_s)):
        timer.now_s += every_s
        said = progress.stalled_s()
    return said


def test_an_engine_at_rest_is_not_stalled_however_long(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 0.1)
    assert watch(progress, timer, 1000) == 0


def test_a_step_is_stalled_after_seconds_where_steps_are_quick(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 0.1)
    progress.begin()
    assert watch(progress, timer, LEAST_S) == 0
    assert watch(progress, timer, 1) == pytest.approx(LEAST_S + 1)
    progress.end(painted=True)
    assert progress.stalled_s() == 0


def test_a_step_may_take_ten_times_as_long_as_the_slowest_of_late(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 2.0)
    unit(progress, timer, 0.1)
    progress.begin()
    assert watch(progress, timer, PATIENCE * 2) == 0
    assert watch(progress, timer, 1) == pytest.approx(PATIENCE * 2 + 1)


def test_what_was_slow_minutes_ago_is_forgotten(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 2.0)
    for _ in range(2):
        timer.now_s += WINDOW_S
        unit(progress, timer, 0.1)
    progress.begin()
    assert watch(progress, timer, LEAST_S + 1) > LEAST_S


def test_loading_and_all_before_the_first_picture_may_take_a_minute(progress: Progress, timer: Timer) -> None:
    progress.begin()
    assert watch(progress, timer, UNKNOWN_S) == 0
    assert watch(progress, timer, 1) > UNKNOWN_S
    progress.end(painted=False)
    progress.begin()
    assert watch(progress, timer, UNKNOWN_S) == 0, "what loading took says nothing about steps"
    assert watch(progress, timer, 1) > UNKNOWN_S


def test_units_that_follow_each_other_are_no_one_long_unit(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 0.1)
    for _ in range(20):
        progress.begin()
        timer.now_s += 1
        assert progress.stalled_s() == 0
        progress.end(painted=True)


def test_a_process_that_was_stopped_does_not_blame_its_engine(progress: Progress, timer: Timer) -> None:
    """Or a laptop that slept, or a machine that gave it no time: nothing looked meanwhile."""
    unit(progress, timer, 0.1)
    progress.begin()
    watch(progress, timer, 1)
    timer.now_s += 300
    assert progress.stalled_s() == 0
    assert watch(progress, timer, 1) == 0


def test_a_machine_so_starved_that_looks_come_late_is_given_longer(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 0.1)
    progress.begin()
    assert watch(progress, timer, 10, every_s=5.0) == 0, "two looks, four seconds"
    assert watch(progress, timer, 5, every_s=5.0) == pytest.approx(15), f"three looks of {LOOK_S} s"


def test_a_command_that_hangs_is_a_unit_too(progress: Progress, timer: Timer) -> None:
    unit(progress, timer, 0.1)
    unit(progress, timer, 0.001, painted=False)
    progress.begin()
    assert watch(progress, timer, LEAST_S + 1) > LEAST_S


def test_where_many_want_a_core_an_engine_is_given_as_much_longer(timer: Timer) -> None:
    crowded = 5.0
    progress = Progress(clock=timer, crowding=lambda: crowded)
    unit(progress, timer, 0.1)
    progress.begin()
    assert watch(progress, timer, 5 * LEAST_S - 1) == 0
    assert watch(progress, timer, 3) > 5 * LEAST_S


def test_threads_that_want_a_core_are_counted() -> None:
    """Three for each core, in processes of their own: Python's threads would wait for each other instead."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        deadline = time.monotonic() + 10
        while (seen := crowding()) < 2.5:
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)
    finally:
        for process in busy:
            process.kill()
            process.wait()
