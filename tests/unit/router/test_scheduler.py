from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.router.consistent_hash import rank
from services.router.errors import BrandQueueFull, DeadlineUnreachable, ExpiredInQueue, NoWorker, RouterStopping
from services.router.fleet import Fleet, Member
from services.router.members import Command, Heartbeat, MeasuredCost, Prefetch
from services.router.placement import Job
from services.router.scheduler import Scheduler, Ticket
from tests.unit.router.router_parts import DIGEST, NOON, Clock, NoConnection, recipe, registration, scheduler_of

HOME, SECOND = rank("acme", {"w1": 1.0, "w2": 1.0})
ONE_IMAGE = 1.0
COST = MeasuredCost("studio", (64, 64), rows=1, step_seconds=0.25, fixed_seconds=0.0)


@dataclass
class Bench:
    """A scheduler over workers that hold every adapter in memory, unless told otherwise; an image takes a second."""

    worker_wait_s: float = 0.0
    clock: Clock = field(default_factory=Clock)
    told: list[tuple[str, Command]] = field(default_factory=list)
    ended: dict[str, LooksmithError] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet = Fleet(router="r1", lease_s=1e9, clock=self.clock, now=lambda: NOON)
        self.scheduler: Scheduler = scheduler_of(self.fleet, self.clock, worker_wait_s=self.worker_wait_s)

    def join(self, *names: str, max_rows: int = 1, tier: Tier = Tier.HOST) -> None:
        for name in names:
            tell: Callable[[Command], None] = lambda command, name=name: self.told.append((name, command))  # type: ignore[misc]  # noqa: E731
            joining = registration(name, max_rows=max_rows)
            self.members[name] = self.fleet.join(joining, NoConnection(), tell=tell)
            self.report(name, tier=tier)

    def report(self, name: str, *, tier: Tier = Tier.HOST, **changes: Any) -> None:  # noqa: ANN401  # heartbeat's
        beat = Heartbeat(1, full=True, residency={DIGEST: tier}, costs=(COST,))
        self.fleet.heard(self.members[name], replace(beat, **changes))

    def enter(self, name: str = "", *, brand: str = "acme", within: float = 60.0, **changes: Any) -> Ticket:  # noqa: ANN401
        job = Job(brand, recipe(), (64, 64), steps=4, images=1, digests=(DIGEST,))
        options = {key: changes.pop(key) for key in ("excluded", "paid", "most_waiting") if key in changes}

        def settled(error: LooksmithError | None) -> None:
            if error:
                self.ended[name] = error

        now = self.clock()
        return self.scheduler.enter(
            replace(job, **changes), arrived=now, deadline=now + within, settled=settled, **options
        )


def test_a_job_starts_at_once_where_there_is_room() -> None:
    bench = Bench()
    bench.join(HOME, SECOND)
    ticket = bench.enter()
    assert (ticket.bound, ticket.worker, ticket.placement.reason) == (True, HOME, "home, adapter in memory")
    assert bench.fleet.view(HOME).rows_given == {"acme": 1}


def test_a_worker_is_given_what_it_paints_and_as_much_again() -> None:
    bench = Bench()
    bench.join("w1", max_rows=2)
    tickets = [bench.enter() for _ in range(6)]
    assert [ticket.bound for ticket in tickets] == [True] * 4 + [False] * 2
    bench.scheduler.leave(tickets[0])
    assert [ticket.bound for ticket in tickets[4:]] == [True, False]


def test_a_brand_of_which_the_worker_has_nothing_need_not_wait_for_another_s_big_jobs() -> None:
    bench = Bench()
    bench.join("w1", max_rows=2)
    assert [bench.enter(images=16).bound for _ in range(3)] == [True, True, False]
    assert bench.enter(brand="other").bound
    assert not bench.enter(brand="other", images=16, paid=True).bound


def test_brands_that_wait_are_served_in_turn() -> None:
    bench = Bench()
    bench.join("w1")
    running = [bench.enter() for _ in range(3)]
    hog = [bench.enter(brand="hog") for _ in range(4)]
    other = bench.enter(brand="other")
    assert [other.bound, running[2].bound, hog[1].bound] == [False] * 3
    for ticket in (running[0], running[1], hog[0]):
        bench.scheduler.leave(ticket)
    assert other.bound


def test_work_is_booked_on_arrival_and_released_in_the_end() -> None:
    bench = Bench()
    bench.join("w1")
    tickets = [bench.enter() for _ in range(5)]
    assert bench.fleet.view("w1").booked == pytest.approx(5 * ONE_IMAGE)
    assert bench.fleet.view("w1").waiting["acme"].gpu_seconds == pytest.approx(3 * ONE_IMAGE)
    for ticket in tickets * 2:
        bench.scheduler.leave(ticket)
    assert bench.fleet.idle
    assert not bench.scheduler.waiting


def test_an_idle_worker_takes_over_what_it_can_end_sooner() -> None:
    bench = Bench()
    bench.join(HOME)
    tickets = [bench.enter() for _ in range(5)]
    bench.join(SECOND)
    assert [ticket.worker for ticket in tickets] == [HOME, HOME, SECOND, SECOND, HOME]
    assert tickets[2].placement.reason == "free, adapter in memory"
    assert [bench.fleet.view(name).booked for name in (HOME, SECOND)] == pytest.approx([3, 2])


def test_nothing_is_taken_over_that_would_be_done_sooner_where_it_waits() -> None:
    bench = Bench()
    bench.join(HOME)
    tickets = [bench.enter(steps=1) for _ in range(4)]
    bench.join(SECOND, tier=Tier.STORE)
    assert not any(ticket.worker == SECOND for ticket in tickets)


def test_jobs_of_a_worker_that_leaves_drains_or_stalls_are_planned_anew() -> None:
    for change in ({"draining": True}, {"stalled_s": 9.0}, None):
        bench = Bench()
        bench.join(HOME, SECOND)
        tickets = [bench.enter(excluded=[SECOND]) for _ in range(3)]
        free = bench.enter()
        while free.worker != HOME:  # the second one is full too
            free = bench.enter()
        if change:
            bench.report(HOME, **change)
        else:
            bench.fleet.leave(bench.members[HOME], "lost")
        assert free.worker == SECOND
        assert [ticket.bound for ticket in tickets] == [True, True, False]


def test_jobs_that_nobody_can_take_any_more_end() -> None:
    bench = Bench()
    bench.join("w1")
    for name in ("a", "b", "c"):
        bench.enter(name)
    bench.fleet.leave(bench.members["w1"], "lost")
    assert list(bench.ended) == ["c"]
    assert isinstance(bench.ended["c"], NoWorker)
    with pytest.raises(NoWorker):
        bench.enter()


def test_with_a_waiting_room_they_wait_for_a_worker_that_can() -> None:
    bench = Bench(worker_wait_s=30.0)
    first = bench.enter()
    assert not first.bound
    assert bench.scheduler.expected_wait(first) is None
    bench.join("w1")
    assert (first.bound, first.worker) == (True, "w1")
    bench.fleet.leave(bench.members["w1"], "lost")
    bench.enter("late")
    bench.clock.seconds += 30
    bench.scheduler.tick()
    assert isinstance(bench.ended["late"], NoWorker)


def test_what_would_end_after_its_deadline_is_refused_with_the_time_to_come_back() -> None:
    bench = Bench()
    bench.join("w1")
    for _ in range(5):
        bench.enter()
    with pytest.raises(DeadlineUnreachable) as refused:
        bench.enter(within=4.0)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    assert len(bench.scheduler.waiting) == 3
    assert bench.enter(within=6.5)


def test_a_brand_with_little_waiting_is_not_refused_for_what_others_have_waiting() -> None:
    bench = Bench()
    bench.join("w1")
    for _ in range(50):
        bench.enter(brand="hog")
    assert bench.enter(within=5.0)


def test_an_idle_worker_may_always_try() -> None:
    bench = Bench()
    bench.join("w1")
    assert bench.enter(within=0.5).bound


def test_what_can_no_longer_begin_is_dropped_before_it_runs() -> None:
    bench = Bench()
    bench.join("w1")
    running = [bench.enter() for _ in range(2)]
    bench.enter("late", within=4.0)
    bench.clock.seconds += 4
    bench.scheduler.leave(running[0])
    assert isinstance(bench.ended["late"], ExpiredInQueue)
    assert bench.fleet.view("w1").booked == pytest.approx(ONE_IMAGE)


def test_a_brand_may_have_so_many_jobs_waiting_and_no_more() -> None:
    bench = Bench()
    bench.join("w1")
    for _ in range(4):
        bench.enter(most_waiting=2)
    with pytest.raises(BrandQueueFull) as refused:
        bench.enter(most_waiting=2)
    assert refused.value.retry_after_s
    assert len(bench.scheduler.waiting) == 2
    assert bench.enter(brand="other", most_waiting=2)


def test_another_attempt_goes_ahead_and_is_not_refused() -> None:
    bench = Bench()
    bench.join("w1")
    tickets = [bench.enter() for _ in range(6)]
    again = bench.enter(paid=True, within=0.5, most_waiting=1)
    bench.scheduler.leave(tickets[0])
    assert again.bound
    assert not tickets[2].bound


def test_adapters_of_waiting_jobs_are_fetched_meanwhile() -> None:
    bench = Bench()
    bench.join("w1", tier=Tier.DISK)
    for _ in range(2):
        assert bench.enter().bound
    assert not bench.told
    bench.enter()
    assert bench.told == [("w1", Prefetch("acme", DIGEST))]


def test_a_router_that_stops_sends_those_who_wait_to_another_one() -> None:
    bench = Bench()
    bench.join("w1")
    for name in ("a", "b", "c", "d"):
        bench.enter(name)
    bench.scheduler.stop()
    assert {name: type(error) for name, error in bench.ended.items()} == dict.fromkeys("cd", RouterStopping)
    assert bench.fleet.view("w1").jobs_here == 2


def test_a_brand_that_is_asked_for_a_lot_gets_homes_which_are_warmed_before_they_are_asked() -> None:
    bench = Bench()
    bench.join("w1", "w2", tier=Tier.STORE)
    for _ in range(4):  # seconds of work, all at once
        bench.enter()
    assert (SECOND, Prefetch("acme", DIGEST)) in bench.told
