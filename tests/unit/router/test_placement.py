from dataclasses import replace

import pytest

from looksmith.nouns import Tier
from services.router.bookings import Waiting
from services.router.consistent_hash import rank
from services.router.fleet import WorkerView
from services.router.members import Heartbeat, MeasuredCost, WorkerState
from services.router.placement import (
    LOAD_BOUND,
    NEW_HOME_PENALTY_IMAGES,
    STALE_S,
    TIER_SECONDS,
    Job,
    Placement,
    SwapCosts,
    place,
)
from tests.unit.router.router_parts import DIGEST, Changes, recipe, registration, settled, snapshot, view

NOW = 100.0
HOME, SECOND, THIRD = rank("acme", dict.fromkeys(("w1", "w2", "w3"), 1.0))
ONE_IMAGE = 4 * 0.1 + 0.3  # seconds, unmeasured


def job(**changes: Changes) -> Job:
    return replace(Job("acme", recipe(), (64, 64), steps=4, images=1, digests=(DIGEST,)), **changes)


def placed(*views: WorkerView, job: Job = job(), excluded: tuple[str, ...] = (), now: float = NOW) -> Placement:  # noqa: B008  # frozen
    return place(job, snapshot(*views), now, excluded=excluded)


def held(tier: Tier) -> dict[str, Tier]:
    return {DIGEST: tier}


@pytest.mark.parametrize(
    ("views", "worker", "reason"),
    [
        ([view(HOME), view(SECOND), view(THIRD)], HOME, "home, adapter in the store"),
        ([view(HOME, residency=held(Tier.DEVICE)), view(SECOND)], HOME, "home, adapter on device"),
        ([view(HOME, booked=0.3), view(SECOND)], HOME, "home, adapter in the store"),
        ([view(HOME, booked=5), view(SECOND)], SECOND, "sooner than home, adapter in the store"),
        ([view(HOME), view(SECOND, residency=held(Tier.DISK))], SECOND, "sooner than home, adapter on disk"),
        (
            [view(HOME, booked=0.05), view(SECOND, residency=held(Tier.DEVICE))],
            SECOND,
            "sooner than home, adapter on device",
        ),
        (
            [view(HOME, residency=held(Tier.HOST)), view(SECOND, residency=held(Tier.HOST))],
            HOME,
            "home, adapter in memory",
        ),
        ([view(HOME, state=WorkerState.DRAINING), view(SECOND)], SECOND, "next in line, adapter in the store"),
        ([view(HOME, state=WorkerState.EJECTED), view(SECOND, booked=9)], SECOND, "next in line, adapter in the store"),
        ([view(HOME, state=WorkerState.EJECTED)], HOME, "home, adapter in the store"),
    ],
)
def test_job_goes_where_it_ends_soonest(views: list[WorkerView], worker: str, reason: str) -> None:
    placement = placed(*views)
    assert (placement.worker, placement.reason) == (worker, reason)


def test_score_is_the_sum_of_its_parts() -> None:
    placement = placed(view(HOME, booked=9, residency=held(Tier.DISK)), view(SECOND, booked=1))
    away, home = placement.candidates
    assert (away.booked, away.adapter) == (1, TIER_SECONDS[Tier.STORE])
    assert away.penalty == pytest.approx(NEW_HOME_PENALTY_IMAGES * ONE_IMAGE)
    assert away.expected == pytest.approx(1 + TIER_SECONDS[Tier.STORE] + (NEW_HOME_PENALTY_IMAGES + 1) * ONE_IMAGE)
    assert (home.booked, home.adapter, home.penalty) == (9, TIER_SECONDS[Tier.DISK], 0)
    assert placement.gpu_seconds == pytest.approx(ONE_IMAGE)


def test_swap_costs_that_are_told_replace_the_constants() -> None:
    told = SwapCosts({Tier.STORE: 3.0}, new_home_images=1.0)
    away = place(job(), snapshot(view(HOME, booked=9), view(SECOND)), NOW, costs=told).candidates[0]
    assert (away.worker, away.adapter) == (SECOND, 3.0)
    assert away.penalty == pytest.approx(ONE_IMAGE)


def test_concurrent_first_requests_follow_the_first_one_home() -> None:
    assert placed(view(HOME, booked=ONE_IMAGE), view(SECOND)).worker == HOME


def test_further_homes_of_a_brand_in_demand_are_no_new_homes() -> None:
    fleet = view(HOME, booked=1.5 * ONE_IMAGE), view(SECOND)
    assert placed(*fleet).worker == HOME
    assert placed(*fleet, job=job(homes=2)).worker == SECOND


def test_brands_that_wait_count_only_as_far_as_they_are_served_before() -> None:
    crowd = {"crowd": Waiting(50.0, 1.0)}
    busy = view(HOME, booked=50.0, waiting=crowd)
    (candidate,) = placed(busy).candidates
    assert candidate.booked == pytest.approx(ONE_IMAGE)  # as much of the crowd's as of this brand's
    (heavy,) = placed(busy, job=job(weight=2.0)).candidates
    assert heavy.booked == pytest.approx(ONE_IMAGE / 2)
    (own,) = placed(view(HOME, booked=50.0, waiting={"acme": Waiting(50.0, 1.0)})).candidates
    assert own.booked == 50.0


def test_slowest_of_several_adapters_counts() -> None:
    two = job(digests=(DIGEST, "c" * 64))
    half = {DIGEST: Tier.DEVICE}
    both = {DIGEST: Tier.HOST, "c" * 64: Tier.HOST}
    placement = placed(view(HOME, residency=half), view(SECOND, residency=both), job=two)
    assert (placement.worker, placement.tier) == (SECOND, Tier.HOST)


def test_job_without_adapters_is_placed_by_load_alone() -> None:
    placement = placed(view(HOME, booked=0.1), view(SECOND), job=job(digests=()))
    assert (placement.worker, placement.tier, placement.reason) == (SECOND, None, "sooner than home, no adapter")


def test_measured_costs_replace_the_constants() -> None:
    slow = Heartbeat(
        1,
        full=True,
        costs=(
            MeasuredCost("studio", (64, 64), rows=4, step_seconds=9, fixed_seconds=9),
            MeasuredCost("studio", (64, 64), rows=1, step_seconds=2, fixed_seconds=0.5),
            MeasuredCost("other", (64, 64), rows=1, step_seconds=9, fixed_seconds=9),
        ),
    )
    assert placed(view(HOME, heartbeat=slow), job=job(images=3)).gpu_seconds == 3 * (4 * 2 + 0.5)
    assert placed(view(HOME, heartbeat=slow), job=job(guided=True)).gpu_seconds == 2 * 4 * 2 + 0.5


def test_declared_speed_scales_the_constants() -> None:
    fast = view(HOME, registration=registration(HOME, speed=2.0))
    assert placed(fast).gpu_seconds == pytest.approx(ONE_IMAGE / 2)


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (view("w9", registration=registration("w9", recipes=(recipe("other"),))), "does not serve recipe studio"),
        (
            view("w9", registration=registration("w9", recipes=(recipe(digest="f" * 64),))),
            "does not serve recipe studio",
        ),
        (view("w9", registration=registration("w9", recipes=(recipe(sizes=((32, 32),)),))), "does not paint 64x64"),
        (view("w9", state=WorkerState.DRAINING), "draining"),
        (view("w9", state=WorkerState.EJECTED), "ejected"),
        (view("w8"), "failed this request"),
    ],
)
def test_unfit_worker_is_shown_with_the_reason(unfit: WorkerView, why: str) -> None:
    placement = placed(unfit, view("w1", booked=99), excluded=("w8",))
    loser = placement.candidates[-1]
    assert (placement.worker, loser.worker, loser.eligible, loser.expected) == ("w1", unfit.name, False, 0)
    assert loser.reason.startswith(why)


def test_every_loser_is_told_by_how_much() -> None:
    placement = placed(view(HOME, residency=held(Tier.DEVICE)), view(SECOND, booked=2, residency=held(Tier.DEVICE)))
    assert [(c.worker, c.reason) for c in placement.candidates] == [
        (HOME, "home, adapter on device"),
        (SECOND, "2.00 s later"),
    ]


@pytest.mark.parametrize("views", [[], [view("w1", state=WorkerState.DRAINING)]])
def test_nobody_is_chosen_when_nobody_can(views: list[WorkerView]) -> None:
    placement = placed(*views)
    assert placement.worker is None
    assert len(placement.candidates) == len(views)


def test_stale_worker_over_the_bound_is_passed_over() -> None:
    silent = view(HOME, booked=0.4, heard_at=NOW - STALE_S - 0.1, residency=held(Tier.DEVICE))
    others = view(SECOND, booked=0.1), view(THIRD, booked=0.1)
    assert placed(replace(silent, heard_at=NOW), *others).worker == HOME
    placement = placed(silent, *others)
    assert placement.worker == SECOND
    assert "silent" in placement.candidates[-1].reason


def test_stale_worker_within_the_bound_is_trusted() -> None:
    silent = view(HOME, booked=0.1 * LOAD_BOUND, heard_at=NOW - 2.5, residency=held(Tier.DEVICE))
    assert placed(silent, view(SECOND, booked=0.1), view(THIRD, booked=0.1)).worker == HOME


def test_job_of_a_request_counts_what_is_left_to_paint() -> None:
    of = Job.of(settled(count=4, images_done=frozenset({1, 2})))
    assert (of.brand, of.images, of.digests, of.size, of.steps) == ("acme", 2, (DIGEST,), (64, 64), 4)
