"""What real streams can't be held still for; tests/integration/router has the rest."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from looksmith.errors import DeadlineExceeded, Unavailable
from services.chassis.painting import Pinned, Settled
from services.chassis.painting_events import Accepted, Placed
from services.router.admission import Admitted, Share
from services.router.dispatch import Dispatcher
from services.router.errors import BrandRateLimited, NoWorker, RequestSuperseded, WorkerLost
from services.router.events import Kind, LastEvent, RouterEvent, WorkerEvent
from services.router.fleet import FAILURES_TO_EJECT, LOST_TOGETHER_S, Fleet
from services.router.members import Heartbeat, WorkerState
from services.router.ports import WorkerCall
from services.router.rate_limits import RateLimits
from services.router.request_memory import Try, nothing
from services.router.retry_budget import RetryBudget
from tests.unit.router.router_parts import NOON, Clock, NoConnection, dispatcher_of, registration, settled


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(router="r1", lease_s=3.0, clock=clock, now=lambda: NOON)
    fleet.join(registration(), NoConnection())
    return fleet


@pytest.fixture
def dispatcher(fleet: Fleet, clock: Clock) -> Dispatcher:
    return dispatcher_of(fleet, clock)


async def test_work_is_booked_from_admission_until_the_stream_is_closed(
    dispatcher: Dispatcher, fleet: Fleet, clock: Clock
) -> None:
    events = dispatcher.run(Admitted(settled(count=2), Try()), arrived=clock(), deadline=clock() + 10)
    assert fleet.view("w1").booked == 0
    assert isinstance(await anext(events), Accepted)
    assert isinstance(await anext(events), Placed)
    assert fleet.view("w1").booked == pytest.approx(2 * (4 * 0.1 + 0.3))
    await events.aclose()
    assert fleet.idle


async def test_try_that_is_superseded_before_its_call_makes_none(
    dispatcher: Dispatcher, fleet: Fleet, clock: Clock
) -> None:
    this_try = Try()
    events = dispatcher.run(Admitted(settled(), this_try), arrived=clock(), deadline=clock() + 10)
    await anext(events)
    await anext(events)
    this_try.supersede()
    with pytest.raises(RequestSuperseded):
        await anext(events)
    assert fleet.idle


async def test_request_that_waited_past_its_deadline_reaches_no_worker(
    dispatcher: Dispatcher, fleet: Fleet, clock: Clock
) -> None:
    events = dispatcher.run(Admitted(settled(), Try()), arrived=clock(), deadline=clock() + 2)
    await anext(events)
    clock.seconds += 2
    await anext(events)
    with pytest.raises(DeadlineExceeded):
        await anext(events)
    assert fleet.idle


class FinishesAndBreaks(NoConnection):
    """A worker whose connection is lost between its last message and the end of its stream."""

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[WorkerCall]:
        yield self

    async def __aiter__(self) -> AsyncIterator[WorkerEvent]:
        yield WorkerEvent(Kind.FINISHED, "the last message")
        raise WorkerLost("w1", "connection reset")

    def cancel(self) -> None:
        pass


async def test_request_that_has_finished_is_not_painted_again(
    dispatcher: Dispatcher, fleet: Fleet, clock: Clock
) -> None:
    fleet.join(registration(), FinishesAndBreaks())
    this_try = Try()
    run = dispatcher.run(Admitted(settled(), this_try), arrived=clock(), deadline=clock() + 10)
    assert [type(event) for event in [event async for event in run]] == [Accepted, Placed, LastEvent]
    assert this_try.stop is nothing


async def test_refusal_names_every_worker_and_why_it_cannot(dispatcher: Dispatcher, fleet: Fleet, clock: Clock) -> None:
    fleet.heard(fleet.member("w1"), Heartbeat(1, full=True, draining=True))
    events = dispatcher.run(Admitted(settled(), Try()), arrived=clock(), deadline=clock() + 10)
    with pytest.raises(NoWorker, match="w1: draining"):
        await anext(events)


class Fails(NoConnection):
    """A worker that fails every request with the same error."""

    def __init__(self, error: Unavailable) -> None:
        self.error = error

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[WorkerCall]:
        raise self.error
        yield  # type: ignore[unreachable]  # makes it a generator


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Unavailable("it can't fetch the adapter", reason="REGISTRY_LOST"), WorkerState.READY),
        (Unavailable("it takes no more", reason="WORKER_DRAINING"), WorkerState.READY),
        (WorkerLost("w1", "connection reset"), WorkerState.EJECTED),
    ],
)
async def test_worker_is_ejected_when_it_is_lost_time_and_again_but_not_while_it_waits_for_others(
    dispatcher: Dispatcher, fleet: Fleet, clock: Clock, error: Unavailable, state: WorkerState
) -> None:
    fleet.join(registration(), Fails(error))
    for _ in range(FAILURES_TO_EJECT):
        clock.seconds += 1 + LOST_TOGETHER_S
        fleet.join(registration(), Fails(error))
        with pytest.raises(Unavailable) as caught:
            [e async for e in dispatcher.run(Admitted(settled(), Try()), arrived=clock(), deadline=clock() + 10)]
        assert caught.value is error
    assert fleet.view("w1").state is state


async def test_a_brand_is_not_charged_for_what_never_began(fleet: Fleet, clock: Clock) -> None:
    limits = RateLimits(clock=clock)
    dispatcher = dispatcher_of(fleet, clock, limits=limits)
    share = Share(gpu_seconds_per_minute=2.5)

    async def begun(*, until_placed: bool) -> AsyncGenerator[RouterEvent, None]:
        events = dispatcher.run(Admitted(settled(), Try(), share=share), arrived=clock(), deadline=clock() + 60)
        for _ in range(1 + until_placed):
            await anext(events)
        return events

    running = [await begun(until_placed=True) for _ in range(2)]  # 1.4 GPU-seconds, and the worker is full
    for _ in range(5):
        await (await begun(until_placed=False)).aclose()
    running.append(await begun(until_placed=False))
    running.append(await begun(until_placed=False))
    with pytest.raises(BrandRateLimited):
        await begun(until_placed=False)
    for events in running:
        await events.aclose()
    assert fleet.idle


async def test_no_other_worker_is_asked_once_the_retries_of_all_requests_are_spent(fleet: Fleet, clock: Clock) -> None:
    lost = WorkerLost("w1", "connection reset")
    for name in ("w1", "w2"):
        fleet.join(registration(name), Fails(lost))
    dispatcher = dispatcher_of(fleet, clock, budget=RetryBudget(most=1, earned=0.5))

    async def workers_asked() -> int:
        placed = 0
        try:
            async for event in dispatcher.run(Admitted(settled(), Try()), arrived=clock(), deadline=clock() + 60):
                placed += isinstance(event, Placed)
        except WorkerLost:
            return placed
        raise AssertionError("both workers fail")

    assert [await workers_asked() for _ in range(4)] == [2, 1, 2, 1]
