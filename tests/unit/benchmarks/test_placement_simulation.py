import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest

from benchmarks.placement_demand import CROWD_BRAND, PATTERNS, Mean
from benchmarks.placement_policies import BASELINES, BOUNDED, LEAST, NOISY, POLICIES, WHOLE, Way
from benchmarks.placement_simulation import HEARTBEAT_S, SERVICE_S, Case, Churn, Overlapped, Serial, Simulation, World
from benchmarks.placement_sixteen import sixteen
from benchmarks.simulated_workers import (
    ADAPTER_BYTES,
    Journey,
    LruTiers,
    OverlappedWorker,
    SharedLink,
    Timeline,
)
from looksmith.nouns import Tier
from services.router.consistent_hash import rank
from services.router.fleet import FleetSnapshot
from services.router.placement import SWAP_COSTS, Job, Placement, SwapCosts
from tests.unit.router.router_parts import DIGEST, recipe, snapshot, view

JOBS = 600


def case(world: World = Serial(), **changes: object) -> Case:  # noqa: B008  # frozen
    facts: dict[str, object] = {"pattern": "zipf", "workers": 4, "load": 0.7, "brands": 100}
    return Case(world, **facts | changes)  # type: ignore[arg-type]  # values of the fields that a test cares about


def simulation(case: Case, way: Way, jobs: int = JOBS) -> Simulation:
    demand = case.demand(jobs=jobs, seed=0)
    return Simulation(case.world, way, demand, workers=case.workers, churn=case.churn, rng=random.Random(0))


# Jobs


@pytest.mark.timeout(20)  # a lost job would be awaited for ever
@pytest.mark.parametrize("churn", [None, Churn(every_s=10, away_s=5)])
@pytest.mark.parametrize("world", [Serial(), Overlapped()])
@pytest.mark.parametrize("policy", [WHOLE, *BASELINES])
def test_every_job_ends_once_and_leaves_no_booking(policy: str, world: World, churn: Churn | None) -> None:
    run = simulation(case(world, churn=churn), POLICIES[policy])
    journeys = run.run().journeys
    assert len(journeys) == JOBS
    done = [journey for journey in journeys if not journey.refused]
    assert len(done) > 0.9 * JOBS
    assert all(j.arrived <= j.bound <= j.started <= j.finished - SERVICE_S + 1e-9 for j in done)
    assert run._fleet.idle
    assert not run._scheduler.waiting
    assert any(journey.bindings > 1 for journey in done) == bool(churn)


@pytest.mark.parametrize("policy", [WHOLE, "one owner"])
def test_a_worker_of_world_a_does_one_job_at_a_time(policy: str) -> None:
    by_worker: dict[str, list[Journey]] = defaultdict(list)
    for journey in case().run(policy, jobs=JOBS, seed=0).journeys:
        by_worker[journey.worker].append(journey)
    for journeys in by_worker.values():
        journeys.sort(key=lambda journey: journey.started)
        assert all(before.finished <= after.started for before, after in pairwise(journeys))


def test_waits_at_one_worker_with_one_brand_are_those_of_an_m_d_1_queue() -> None:
    load = 0.6
    journeys = case(workers=1, load=load, brands=1).run("one owner", jobs=40_000, seed=0).journeys
    waited = fmean(journey.seconds for journey in journeys[100:]) - SERVICE_S
    assert waited == pytest.approx(load / (2 * (1 - load)), rel=0.04)  # Pollaczek and Khinchine


@pytest.mark.parametrize("policy", [WHOLE, NOISY, LEAST])
def test_the_seed_decides_everything(policy: str) -> None:
    def run(seed: int) -> list[tuple[str, float]]:
        return [(journey.worker, journey.finished) for journey in case().run(policy, jobs=JOBS, seed=seed).journeys]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_placement_sees_bookings_at_once_and_residency_up_to_a_second_late() -> None:
    place = POLICIES[WHOLE].policy(random.Random(0))
    ages, differ = [0.0], 0

    def watched(
        job: Job, fleet: FleetSnapshot, now: float, /, *, excluded: Collection[str], costs: SwapCosts
    ) -> Placement:
        nonlocal differ
        for seen in fleet.workers:
            assert seen.booked_here == pytest.approx(seen.jobs_here * SERVICE_S)
            ages.append(fleet.taken_at - seen.heard_at)
            differ += seen.heartbeat.residency != run._present[seen.name].worker.tiers.residency()
        return place(job, fleet, now, excluded=excluded, costs=costs)

    run = simulation(case(), replace(POLICIES[WHOLE], policy=lambda _rng: watched))
    run.run()
    assert 0.9 * HEARTBEAT_S < max(ages) <= HEARTBEAT_S + 1e-9
    assert 0.02 < differ / len(ages) < 0.5


# Workers


def test_least_recently_used_adapter_makes_room() -> None:
    tiers = LruTiers(device_slots=2, host_slots=3)
    for digest in "abacd":
        tiers.use(digest)
    assert {digest: tiers.tier(digest) for digest in "abcd"} == {
        "a": Tier.HOST,
        "b": Tier.STORE,
        "c": Tier.DEVICE,
        "d": Tier.DEVICE,
    }
    assert tiers.residency() == {"a": Tier.HOST, "c": Tier.DEVICE, "d": Tier.DEVICE}


def test_swaps_of_world_a_cost_what_their_tier_says() -> None:
    fleet = case(workers=1, load=0.01, brands=30)  # more than slots; nobody waits
    took = {
        (j.found, round(j.seconds, 6))
        for j in fleet.run("one owner", jobs=JOBS, seed=0).journeys
        if j.bound == j.started
    }
    assert took == {(Tier.DEVICE, 1.0), (Tier.HOST, 1.1), (Tier.STORE, 2.0)}


def test_fetches_share_the_network_evenly() -> None:
    timeline, landed = Timeline(), list[tuple[str, float]]()
    link = SharedLink(timeline=timeline, bytes_per_s=10, landed=lambda digest: landed.append((digest, timeline.now)))
    timeline.after(0, lambda: link.fetch("a", 100))
    timeline.after(5, lambda: link.fetch("b", 100))
    timeline.run()
    assert [digest for digest, _ in landed] == ["a", "b"]
    assert [at for _, at in landed] == pytest.approx([15, 20])


def overlapped(timeline: Timeline, ended: list[Journey], fetches: list[float]) -> OverlappedWorker:
    def done(journey: Journey) -> None:
        journey.finished = timeline.now
        ended.append(journey)

    return OverlappedWorker(
        timeline=timeline,
        done=done,
        fetches=fetches,
        batch_seconds=(1.0, 1.5),
        bytes_per_s=ADAPTER_BYTES,
        prepare_s=0.25,
        from_disk_s=0.125,
        copy_s=0.0625,
    )


def test_one_fetch_serves_every_job_that_waits_for_it() -> None:
    timeline, ended, fetches = Timeline(), list[Journey](), list[float]()
    worker = overlapped(timeline, ended, fetches)
    jobs = [Journey(0, "a", 0.0) for _ in range(3)]
    for journey in jobs:
        worker.give(journey)
    timeline.run()
    assert fetches == [0.0]
    assert [journey.finished for journey in ended] == [2.8125, 2.8125, 3.8125]  # a batch of two, then one alone


def test_a_download_keeps_no_ready_brand_waiting() -> None:
    timeline, ended = Timeline(), list[Journey]()
    worker = overlapped(timeline, ended, [])
    worker.tiers.bring("b")
    for digest in "ab":
        worker.give(Journey(0, digest, 0.0))
    timeline.run()
    assert [(journey.digest, journey.finished) for journey in ended] == [("b", 1.0625), ("a", 2.3125)]


def test_what_is_prefetched_or_on_disk_is_there_when_its_job_comes() -> None:
    timeline, ended, fetches = Timeline(), list[Journey](), list[float]()
    worker = overlapped(timeline, ended, fetches)
    worker.prefetch("a")
    for digest in ("b", *map(str, range(64))):  # as many as memory holds: b is on disk alone
        worker.tiers.bring(digest)
    timeline.after(2, lambda: worker.give(Journey(0, "a", 2.0)))
    timeline.after(9, lambda: worker.give(Journey(0, "b", 9.0)))
    timeline.run()
    assert [(journey.found, journey.finished) for journey in ended] == [(Tier.HOST, 3.0625), (Tier.DISK, 10.1875)]
    assert fetches == [0.0]


# Policies and demand

HOME, SECOND, THIRD = rank("acme", dict.fromkeys(("w1", "w2", "w3"), 1.0))


@pytest.mark.parametrize(
    ("policy", "in_flight", "worker"),
    [
        ("one owner", {HOME: 9, SECOND: 0, THIRD: 0}, HOME),
        (BOUNDED, {HOME: 2, SECOND: 2, THIRD: 2}, HOME),
        (BOUNDED, {HOME: 5, SECOND: 0, THIRD: 0}, SECOND),
        (BOUNDED, {HOME: 5, SECOND: 5, THIRD: 0}, THIRD),
        (LEAST, {HOME: 1, SECOND: 2, THIRD: 0}, THIRD),
        ("prefer resident", {HOME: 0, SECOND: 9, THIRD: 8}, THIRD),
    ],
)
def test_others_choose_as_their_names_say(policy: str, in_flight: Mapping[str, int], worker: str) -> None:
    held = {DIGEST: Tier.HOST}
    residency = {HOME: {}, SECOND: held, THIRD: held}
    fleet = snapshot(*(view(name, jobs_here=in_flight[name], residency=residency[name]) for name in residency))
    job = Job("acme", recipe(), (64, 64), steps=4, images=1, digests=(DIGEST,))
    choose = POLICIES[policy].policy(random.Random(0))
    assert choose(job, fleet, 100.0, excluded=(), costs=SWAP_COSTS).worker == worker


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demand_comes_at_its_mean_rate(pattern: str) -> None:
    demand = PATTERNS[pattern](Mean(20_000, per_second=3.0, brands=300), np.random.default_rng(0))
    assert list(demand.times) == sorted(demand.times)
    assert 20_000 / demand.times[-1] == pytest.approx(3.0, rel=0.03)


def test_shares_of_demand_are_those_that_patterns_name() -> None:
    mean = Mean(20_000, per_second=3.0, brands=300)
    drawn = {name: pattern(mean, np.random.default_rng(0)) for name, pattern in PATTERNS.items()}
    assert drawn["zipf"].brands.count(0) / 20_000 == pytest.approx(1 / sum(n**-1.1 for n in range(1, 301)), rel=0.05)
    assert drawn["uniform"].brands.count(0) / 20_000 == pytest.approx(1 / 300, rel=0.4)
    crowd = drawn["flash crowd"]
    begins, ends = crowd.crowd or (0.0, 0.0)
    during = [brand for time, brand in zip(crowd.times, crowd.brands, strict=True) if begins <= time < ends]
    assert during.count(CROWD_BRAND) / len(during) == pytest.approx(0.6, abs=0.02)
    assert len(during) == pytest.approx(0.3 * 20_000, abs=2)


def test_sixteen_pictures_are_shared_out_and_others_go_in_between() -> None:
    figures = sixteen()
    assert figures["sixteen_on_four_workers"] == pytest.approx(0.25)
    assert 0 < figures["single_delayed_by_batches"] <= 1
