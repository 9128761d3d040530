from dataclasses import replace

import pytest

from looksmith.nouns import Tier
from services.router.fleet import WorkerView
from services.router.members import Heartbeat, MeasuredCost
from services.router.placement import Job
from services.router.portions import dealt, portion_sizes
from tests.unit.router.router_parts import DIGEST, recipe, snapshot, view

COST = MeasuredCost("studio", (64, 64), rows=1, step_seconds=0.25, fixed_seconds=0.0)  # a second an image
JOB = Job("acme", recipe(), (64, 64), steps=4, images=16, digests=(DIGEST,))


def worker(name: str, *, booked: float = 0.0, tier: Tier = Tier.DEVICE) -> WorkerView:
    return view(name, booked=booked, heartbeat=Heartbeat(1, full=True, residency={DIGEST: tier}, costs=(COST,)))


def sizes(*views: WorkerView, job: Job = JOB) -> tuple[int, ...]:
    return portion_sizes(job, snapshot(*views), 100.0)


def test_four_idle_workers_paint_a_quarter_each() -> None:
    assert sizes(*map(worker, ("w1", "w2", "w3", "w4"))) == (4, 4, 4, 4)


def test_a_worker_that_is_busy_gets_less() -> None:
    assert sizes(worker("w1"), worker("w2", booked=6)) == (11, 5)


def test_who_has_only_painted_large_batches_gets_no_more_than_its_like() -> None:
    # In a batch of eight a step costs a row half of what it costs alone.
    in_eights = MeasuredCost("studio", (64, 64), rows=8, step_seconds=1.0, fixed_seconds=0.0)
    beat = replace(worker("w2").heartbeat, costs=(in_eights,))
    assert sizes(worker("w1"), replace(worker("w2"), heartbeat=beat)) == (8, 8)
    unmeasured = replace(worker("w2").heartbeat, costs=())
    assert sizes(worker("w1"), replace(worker("w2"), heartbeat=unmeasured)) == (8, 8)


def test_a_worker_that_is_declared_slower_gets_less() -> None:
    slow_cost = MeasuredCost("studio", (64, 64), rows=8, step_seconds=8.0, fixed_seconds=0.0)
    slow = replace(worker("w2"), registration=replace(worker("w2").registration, speed=0.5))
    assert sizes(worker("w1"), replace(slow, heartbeat=replace(slow.heartbeat, costs=(slow_cost,)))) == (13, 3)


def test_who_lacks_the_adapter_gets_less_still() -> None:
    assert sizes(worker("w1"), worker("w2", tier=Tier.STORE)) == (10, 6)


@pytest.mark.parametrize(
    "views",
    [
        (worker("w1"),),
        (worker("w1"), worker("w2", booked=15)),
        (worker("w1"), replace(worker("w2"), registration=replace(worker("w2").registration, recipes=(recipe("x"),)))),
    ],
)
def test_one_worker_paints_all_where_others_would_not_end_it_sooner(views: tuple[WorkerView, ...]) -> None:
    assert sizes(*views) == (16,)


def test_a_single_image_is_not_shared_out() -> None:
    assert sizes(worker("w1"), worker("w2"), job=replace(JOB, images=1)) == (1,)
    assert sizes(worker("w1"), worker("w2"), job=replace(JOB, images=0)) == (0,)


def test_nobody_is_asked_who_is_not_there() -> None:
    assert sizes() == (16,)


def test_portions_hold_every_image_once() -> None:
    assert dealt([0, 2, 3, 7, 9], (3, 2)) == [(0, 2, 3), (7, 9)]
    assert dealt([], (0,)) == [()]
