import pytest

from looksmith.errors import LooksmithError
from services.router.attempt import Attempt
from services.router.errors import WorkerLost, WorkerStalled
from services.router.fleet import Fleet
from services.router.members import Heartbeat
from services.router.placement import Placement
from services.router.watchdog import Watchdog
from tests.unit.router.router_parts import NOON, Clock, NoConnection, registration

LEASE_S = 3.0


class Call:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(router="r1", lease_s=LEASE_S, clock=clock, now=lambda: NOON)
    fleet.join(registration(), NoConnection())
    return fleet


@pytest.fixture
def watchdog(fleet: Fleet, clock: Clock) -> Watchdog:
    return Watchdog(fleet=fleet, lease_s=LEASE_S, clock=clock)


@pytest.fixture
def attempt(clock: Clock) -> Attempt:
    attempt = Attempt(1, Placement("w1", "home", None, 1.0), NoConnection(), clock())
    attempt.call = Call()  # type: ignore[assignment]  # only ever cancelled here
    return attempt


def ended(watchdog: Watchdog, attempt: Attempt) -> LooksmithError | None:
    with watchdog.watching(attempt):
        watchdog.look()
    assert attempt.call
    assert attempt.call.cancelled == bool(attempt.given_up)  # type: ignore[attr-defined]  # Call's
    return attempt.given_up


def test_a_slow_attempt_at_a_worker_that_reports_goes_on(
    watchdog: Watchdog, attempt: Attempt, fleet: Fleet, clock: Clock
) -> None:
    clock.seconds += 1000
    fleet.heard(fleet.join(registration(), NoConnection()), Heartbeat(1, full=True))
    assert ended(watchdog, attempt) is None


def test_an_engine_that_does_not_get_on_loses_its_attempts(watchdog: Watchdog, attempt: Attempt, fleet: Fleet) -> None:
    fleet.heard(fleet.member("w1"), Heartbeat(1, full=True, stalled_s=8.0))
    assert isinstance(ended(watchdog, attempt), WorkerStalled)


def test_a_worker_that_says_nothing_at_all_for_its_lease_is_lost(
    watchdog: Watchdog, attempt: Attempt, clock: Clock
) -> None:
    clock.seconds += LEASE_S + 0.1
    assert isinstance(ended(watchdog, attempt), WorkerLost)


def test_one_whose_session_broke_but_whose_stream_goes_on_is_not(
    watchdog: Watchdog, attempt: Attempt, fleet: Fleet, clock: Clock
) -> None:
    fleet.leave(fleet.member("w1"), "connection lost")
    clock.seconds += 60
    attempt.last_word = clock()
    assert ended(watchdog, attempt) is None
