from __future__ import annotations

import threading
import time

import pytest

from looksmith.bases.several import Stopped, Tally, several


def test_one_failure_ends_what_runs_and_what_waits() -> None:
    tally = Tally(100, lambda _done, _total: None)
    begun, ended = [], []
    running = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            assert running.wait(10)
            raise KeyError("the first failure")
        running.set()
        try:
            for _ in range(5000):  # as a file of many pieces
                tally.add(0)
                time.sleep(0.001)
        except Stopped:
            ended.append(item)
            raise

    with pytest.raises(KeyError, match="the first failure"):
        several(work, range(10), at_once=2, tally=tally)
    assert sorted(ended) == sorted({*begun} - {1})
    assert len(begun) <= 3


def test_so_many_run_at_once_and_no_more() -> None:
    meeting = threading.Barrier(3, timeout=10)
    running, most, lock = 0, 0, threading.Lock()

    def work(_item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait()
        with lock:
            running -= 1

    several(work, range(9), at_once=3, tally=Tally(0, lambda _done, _total: None))
    assert most == 3
