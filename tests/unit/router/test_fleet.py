from dataclasses import replace

import pytest

from looksmith.nouns import Tier
from services.router.errors import WorkerNotFound, WorkerReplaced
from services.router.fleet import EJECTED_S, FAILURES_TO_EJECT, LOST_TOGETHER_S, Fleet
from services.router.members import BookedWork, Heartbeat, WorkerState
from tests.unit.router.router_parts import NOON, Clock, NoConnection, registration

A, B = "a" * 64, "b" * 64


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    return Fleet(router="r1", lease_s=3.0, clock=clock, now=lambda: NOON)


def names(fleet: Fleet) -> list[str]:
    return [view.name for view in fleet.snapshot().workers]


def test_a_worker_is_there_from_joining_to_leaving(fleet: Fleet) -> None:
    late, early = (fleet.join(registration(name), NoConnection()) for name in ("w2", "w1"))
    assert names(fleet) == ["w1", "w2"]
    fleet.leave(early, "test")
    assert names(fleet) == ["w2"]
    fleet.leave(late, "test")
    assert names(fleet) == []


def test_a_silent_worker_is_gone_when_its_lease_ends(fleet: Fleet, clock: Clock) -> None:
    member = fleet.join(registration(), NoConnection())
    clock.seconds += 2.9
    fleet.heard(member, Heartbeat(1, full=True))
    clock.seconds += 2.9
    assert names(fleet) == ["w1"]
    clock.seconds += 0.2
    assert names(fleet) == []
    with pytest.raises(WorkerNotFound):
        fleet.book("w1", 1.0)


def test_deltas_change_what_a_full_heartbeat_told(fleet: Fleet) -> None:
    member = fleet.join(registration(), NoConnection())
    assert fleet.heard(member, Heartbeat(1, full=True, residency={A: Tier.DEVICE}))
    assert fleet.heard(member, Heartbeat(2, full=False, residency={B: Tier.HOST}))
    assert fleet.heard(member, Heartbeat(3, full=False, residency={A: Tier.STORE}))
    assert fleet.view("w1").heartbeat.residency == {B: Tier.HOST}


def test_a_gap_asks_for_a_full_heartbeat_until_one_comes(fleet: Fleet) -> None:
    member = fleet.join(registration(), NoConnection())
    fleet.heard(member, Heartbeat(1, full=True, residency={A: Tier.DEVICE}))
    assert not fleet.heard(member, Heartbeat(3, full=False, residency={B: Tier.HOST}))
    assert not fleet.heard(member, Heartbeat(4, full=False, residency={B: Tier.HOST}))
    assert fleet.view("w1").heartbeat.residency == {A: Tier.DEVICE}
    assert fleet.heard(member, Heartbeat(5, full=True, residency={B: Tier.DISK}))
    assert fleet.heard(member, Heartbeat(6, full=False))
    assert fleet.view("w1").heartbeat.residency == {B: Tier.DISK}


def test_a_gap_does_not_hide_that_a_worker_lives_and_drains(fleet: Fleet, clock: Clock) -> None:
    member = fleet.join(registration(), NoConnection())
    clock.seconds += 2
    assert not fleet.heard(member, Heartbeat(7, full=False, draining=True))
    assert (fleet.view("w1").state, fleet.view("w1").heard_at) == (WorkerState.DRAINING, clock())


def test_bookings_count_until_they_are_released(fleet: Fleet) -> None:
    fleet.join(registration(), NoConnection())
    first, second = fleet.book("w1", 2.0), fleet.book("w1", 3.0)
    assert (fleet.view("w1").booked, fleet.view("w1").jobs_here) == (5.0, 2)
    assert not fleet.idle
    for _ in range(2):
        first.release()
        assert (fleet.view("w1").booked, fleet.view("w1").jobs_here) == (3.0, 1)
    second.release()
    assert fleet.idle


def test_work_of_other_routers_adds_to_ours(fleet: Fleet) -> None:
    member = fleet.join(registration(), NoConnection())
    fleet.book("w1", 2.0)
    fleet.heard(member, Heartbeat(1, full=True, booked=(BookedWork("r1", 1.5), BookedWork("r2", 4.0))))
    assert (fleet.view("w1").booked_here, fleet.view("w1").booked) == (2.0, 6.0)


def test_another_incarnation_voids_what_was_booked_and_held(fleet: Fleet) -> None:
    old = fleet.join(registration(), NoConnection())
    fleet.heard(old, Heartbeat(1, full=True, residency={A: Tier.DEVICE}))
    booking = fleet.book("w1", 2.0)
    fleet.join(replace(registration(), incarnation="i2"), NoConnection())
    booking.release()
    assert (fleet.view("w1").booked, fleet.view("w1").heartbeat.residency) == (0.0, {})


def test_the_same_incarnation_keeps_its_bookings_when_it_joins_anew(fleet: Fleet) -> None:
    old = fleet.join(registration(), NoConnection())
    booking = fleet.book("w1", 2.0)
    fleet.join(registration(), NoConnection())
    fleet.leave(old, "its session ended late")
    assert fleet.view("w1").booked == 2.0
    booking.release()
    assert fleet.view("w1").booked == 0.0


def test_a_replaced_session_is_told_so(fleet: Fleet) -> None:
    old = fleet.join(registration(), NoConnection())
    fleet.join(replace(registration(), incarnation="i2"), NoConnection())
    with pytest.raises(WorkerReplaced):
        fleet.heard(old, Heartbeat(1, full=True))


def test_failures_in_a_row_eject_a_worker_for_a_while(fleet: Fleet, clock: Clock) -> None:
    member = fleet.join(registration(), NoConnection())

    def state_after(seconds: float) -> WorkerState:
        clock.seconds += seconds
        fleet.heard(member, Heartbeat(1, full=True))
        return fleet.view("w1").state

    for _ in range(FAILURES_TO_EJECT - 1):
        fleet.failed("w1")
    fleet.succeeded("w1")
    for _ in range(FAILURES_TO_EJECT - 1):
        fleet.failed("w1")
    assert state_after(0) is WorkerState.READY
    fleet.failed("w1")
    assert state_after(0) is WorkerState.EJECTED
    assert state_after(EJECTED_S - 0.1) is WorkerState.EJECTED
    assert state_after(0.1) is WorkerState.READY


def test_jobs_that_were_lost_together_count_as_one(fleet: Fleet, clock: Clock) -> None:
    fleet.join(registration(), NoConnection())
    for _ in range(10):
        fleet.failed("w1", lost=True)
    assert fleet.view("w1").state is WorkerState.READY
    for _ in range(FAILURES_TO_EJECT - 1):
        clock.seconds += LOST_TOGETHER_S
        fleet.join(registration(), NoConnection())  # it joins anew each time
        fleet.failed("w1", lost=True)
    assert fleet.view("w1").state is WorkerState.EJECTED


def test_ejections_grow_longer_until_a_job_ends_well(fleet: Fleet, clock: Clock) -> None:
    def ejected_s() -> float:
        for _ in range(FAILURES_TO_EJECT):
            fleet.failed("w1")
        began = clock()
        while fleet.view("w1").state is WorkerState.EJECTED:
            clock.seconds += 1
            fleet.heard(member, Heartbeat(1, full=True))
        return clock() - began

    member = fleet.join(registration(), NoConnection())
    assert [ejected_s(), ejected_s()] == [EJECTED_S, 2 * EJECTED_S]
    fleet.succeeded("w1")
    assert ejected_s() == EJECTED_S


def test_no_more_than_half_of_the_workers_are_ejected_at_once(fleet: Fleet) -> None:
    for name in ("w1", "w2", "w3"):
        fleet.join(registration(name), NoConnection())
        for _ in range(FAILURES_TO_EJECT):
            fleet.failed(name)
    states = [view.state for view in fleet.snapshot().workers]
    assert states == [WorkerState.EJECTED, WorkerState.READY, WorkerState.READY]
