import math

import pytest

from services.gpu_worker.errors import WorkerFull
from services.gpu_worker.queue import FairQueue


def queue_of(*jobs: tuple[str, str, float], limit: int = 100) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(limit=limit)
    for name, brand, deadline in jobs:
        queue.push(name, brand=brand, deadline=deadline, retry_after_s=2.5)
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    taken = []
    while (item := queue.take(lambda _: True)) is not None:
        taken.append(item)
    return taken


def test_a_brand_with_many_jobs_does_not_starve_another() -> None:
    queue = queue_of(*((f"big{i}", "big", math.inf) for i in range(5)), ("small0", "small", math.inf))
    assert drained(queue) == ["big0", "small0", "big1", "big2", "big3", "big4"]


def test_brands_take_turns_in_rotation() -> None:
    jobs = [(f"{brand}{i}", brand, math.inf) for brand in "abc" for i in range(3)]
    assert drained(queue_of(*jobs)) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_within_a_brand_the_earliest_deadline_goes_first_and_equals_keep_their_order() -> None:
    queue = queue_of(("late", "a", 30.0), ("never", "a", math.inf), ("soon", "a", 10.0), ("soon too", "a", 10.0))
    assert drained(queue) == ["soon", "soon too", "late", "never"]


def test_a_job_that_is_not_ready_blocks_neither_its_brand_nor_others() -> None:
    queue = queue_of(("cold", "a", 1.0), ("warm", "a", 2.0), ("other", "b", math.inf))
    ready = {"warm", "other"}
    assert queue.take(ready.__contains__) == "warm"
    assert queue.take(ready.__contains__) == "other"
    assert queue.take(ready.__contains__) is None
    assert len(queue) == 1


def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = queue_of(("one", "a", math.inf), limit=1)
    with pytest.raises(WorkerFull) as caught:
        queue.push("two", brand="b", deadline=math.inf, retry_after_s=2.5)
    assert (caught.value.reason, caught.value.retry_after_s) == ("WORKER_FULL", 2.5)


def test_a_removed_job_never_gets_its_turn() -> None:
    queue = queue_of(("one", "a", math.inf), ("two", "a", math.inf))
    assert queue.remove("one")
    assert not queue.remove("one")
    assert drained(queue) == ["two"]
