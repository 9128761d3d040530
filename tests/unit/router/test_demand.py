from looksmith.nouns import Tier
from services.router.consistent_hash import rank
from services.router.demand import KEPT_S, STEADY_JOBS, Demand
from services.router.fleet import Fleet
from services.router.members import Command, Heartbeat, Prefetch
from services.router.placement import Job
from services.router.warmth import TOLD_AGAIN_S, Warmth
from tests.unit.router.router_parts import DIGEST, NOON, Clock, NoConnection, recipe, registration

NAMES = rank("acme", dict.fromkeys(("w1", "w2", "w3"), 1.0))
JOB = Job("acme", recipe(), (64, 64), steps=4, images=1, digests=(DIGEST,))


def asked(demand: Demand, *, per_s: float, seconds: float, begin: float = 0.0) -> None:
    """Jobs of one GPU-second at a steady rate."""
    for number in range(int(per_s * seconds)):
        demand.note("acme", 1.0, begin + number / per_s)


def test_a_brand_has_one_home_until_it_keeps_more_than_one_worker_busy() -> None:
    demand = Demand()
    assert (demand.homes("acme"), demand.warm("acme")) == (1, 1)
    asked(demand, per_s=0.3, seconds=20)
    assert demand.homes("acme") == 1


def test_a_crowd_gets_homes_within_two_seconds() -> None:
    demand = Demand()
    asked(demand, per_s=3.0, seconds=2)
    assert demand.homes("acme") >= 3
    assert demand.homes("other") == 1


def test_a_brand_that_is_always_asked_for_a_lot_is_no_crowd_when_a_few_jobs_come_at_once() -> None:
    usual, unusual = Demand(), Demand()
    asked(usual, per_s=1.0, seconds=300)
    for demand in (usual, unusual):
        asked(demand, per_s=4.0, seconds=0.75, begin=300)
    assert usual.homes("acme") <= 3 < unusual.homes("acme")


def test_two_jobs_at_once_are_no_crowd() -> None:
    demand = Demand()
    asked(demand, per_s=4.0, seconds=0.5)
    assert demand.homes("acme") == 1


def test_homes_are_kept_for_a_while_after_the_crowd_has_gone() -> None:
    demand = Demand()
    asked(demand, per_s=3.0, seconds=10)
    demand.note("acme", 1.0, 10 + KEPT_S / 2)
    assert demand.homes("acme") >= 3
    demand.note("acme", 1.0, 12 + 2 * KEPT_S)
    assert demand.homes("acme") == 1


def test_a_brand_that_is_asked_for_steadily_is_worth_a_second_home() -> None:
    demand = Demand()
    asked(demand, per_s=0.1, seconds=50)
    assert demand.warm("acme") == 1
    asked(demand, per_s=0.5, seconds=4 * STEADY_JOBS, begin=50)
    assert demand.warm("acme") == 2


def test_further_homes_are_told_once_to_fetch_what_they_lack() -> None:
    clock, told = Clock(), list[tuple[str, Command]]()
    fleet = Fleet(router="r1", lease_s=1e9, clock=clock, now=lambda: NOON)
    for name in NAMES:
        fleet.join(registration(name), NoConnection(), tell=lambda command, name=name: told.append((name, command)))  # type: ignore[misc]
    fleet.heard(fleet.member(NAMES[0]), Heartbeat(1, full=True, residency={DIGEST: Tier.DISK}))
    warmth = Warmth(fleet=fleet, clock=clock)
    warmth.keep(JOB, 1, planned=NAMES[0])
    assert not told
    for _ in range(3):
        warmth.keep(JOB, 2, planned=NAMES[0])
    assert told == [(NAMES[1], Prefetch("acme", DIGEST))]
    clock.seconds += TOLD_AGAIN_S
    warmth.keep(JOB, 2, planned=NAMES[0])
    assert len(told) == 2
    warmth.keep(JOB, 3, planned=NAMES[2])
    assert len(told) == 2
