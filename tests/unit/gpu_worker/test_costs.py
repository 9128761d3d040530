from __future__ import annotations

from dataclasses import replace

import pytest

from services.gpu_worker.costs import MeasuredCosts, StepTimes, Work

WORK = Work("studio", 16, 16, steps=4, images=2)


def times(*steps: tuple[float, int], own_rows: int = 1) -> StepTimes:
    """Steps as (seconds, rows of the batch)."""
    made = StepTimes()
    for took_s, rows in steps:
        made.add(took_s, batch_rows=rows, own_rows=own_rows)
    return made


def observed(*jobs: tuple[Work, StepTimes, float]) -> MeasuredCosts:
    costs = MeasuredCosts()
    for work, steps, total_s in jobs:
        costs.observe(work, steps, total_s=total_s)
    return costs


def test_estimates_from_the_first_job_and_follows_later_ones_slowly() -> None:
    costs = MeasuredCosts()
    assert costs.estimate_s(WORK) == 0
    costs.observe(WORK, times(*[(1.0, 1)] * 8), total_s=10.0)
    assert costs.estimate_s(replace(WORK, steps=8, images=1)) == pytest.approx(8 * 1.0 + 1.0)
    costs.observe(WORK, times(*[(2.0, 1)] * 8), total_s=18.0)
    (cost,) = costs.known()
    assert (cost.rows, cost.step_s, cost.fixed_s) == pytest.approx((1, 1.2, 1.0))


def test_another_recipe_or_size_is_not_guessed_at() -> None:
    costs = observed((WORK, times((1.0, 1)), 5.0))
    assert costs.estimate_s(replace(WORK, width=32)) == 0
    assert costs.estimate_s(replace(WORK, recipe="other")) == 0


def test_a_job_without_images_teaches_nothing() -> None:
    assert observed((replace(WORK, images=0), times(), 5.0)).known() == ()


def test_each_batch_that_was_seen_is_known_by_itself_smallest_first() -> None:
    one = replace(WORK, images=1)
    costs = observed(
        (one, times(*[(3.0, 8)] * 4), 4 * 3.0 / 8 + 0.5),
        (one, times((1.0, 1), (1.0, 1), (2.0, 2), (4.0, 2)), 2.0 + 3.0 + 0.75),
    )
    known = [(cost.rows, cost.step_s, cost.fixed_s) for cost in costs.known()]
    assert known == [(1, 1.0, 0.75), (2, 3.0, 0.75), (8, 3.0, 0.5)]


def test_a_job_that_met_others_does_not_change_what_a_picture_costs_alone() -> None:
    costs = observed((WORK, times(*[(1.0, 1)] * 8), 10.0), (WORK, times(*[(5.0, 4)] * 8), 12.0))
    assert costs.known()[0].step_s == 1.0
    assert costs.estimate_s(WORK) == pytest.approx(2 * (4 * 1.0 + 1.0))


def test_what_was_never_painted_alone_is_estimated_from_the_smallest_batch() -> None:
    costs = observed((WORK, times(*[(3.0, 4)] * 8), 8 * 3.0 / 4 + 1.0), (WORK, times(*[(4.0, 8)] * 8), 5.0))
    assert costs.estimate_s(WORK) == pytest.approx(2 * (4 * 3.0 / 4 + 0.5))


def test_a_guided_image_costs_its_two_rows() -> None:
    guided = replace(WORK, images=1, rows=2)
    costs = observed((guided, times(*[(1.5, 2)] * 4, own_rows=2), 4 * 1.5 + 0.5))
    assert [(cost.rows, cost.fixed_s) for cost in costs.known()] == [(2, 0.5)]
    assert costs.estimate_s(guided) == pytest.approx(4 * 1.5 + 0.5)
