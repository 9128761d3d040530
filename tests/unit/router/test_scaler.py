from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from looksmith.errors import InvalidField
from services.router.bookings import Waiting
from services.router.fleet import FleetSnapshot
from services.router.placement import Job, unmeasured_seconds
from services.router.scaler import METRIC, TARGET_S, FleetBacklog, Scaler, Trigger, Work
from tests.unit.router.router_parts import recipe, registration, settled, snapshot, view

IDLE, BUSY = Work(), Work(in_flight_gpu_seconds=0.5)


@dataclass
class Told:
    """A Backlog that says what the test says."""

    now: Work = IDLE
    asked: list[str] = field(default_factory=list)

    def work(self, recipe: str) -> Work:
        self.asked.append(recipe)
        return self.now


@pytest.mark.parametrize(
    ("work", "active"),
    [
        (IDLE, False),
        (Work(queued_gpu_seconds=0.1), True),
        (Work(in_flight_gpu_seconds=0.1), True),
        (Work(requests_without_worker=1), True),
    ],
)
def test_workers_are_wanted_while_anything_waits_or_is_painted(work: Work, *, active: bool) -> None:
    assert Scaler(backlog=Told(work)).is_active(Trigger()) is active


def test_the_metric_counts_what_waits_and_what_is_painted() -> None:
    backlog = Told(Work(queued_gpu_seconds=40.0, in_flight_gpu_seconds=2.5, requests_without_worker=3))
    assert Scaler(backlog=backlog).metric(METRIC, Trigger(recipe="studio")) == 42.5
    assert backlog.asked == ["studio"]


def test_another_metric_is_refused_by_name() -> None:
    with pytest.raises(InvalidField) as caught:
        Scaler(backlog=Told()).metric("looksmith-jobs", Trigger())
    assert caught.value.violations[0].field == "metricName"


@pytest.mark.parametrize(
    ("metadata", "trigger"),
    [
        ({}, Trigger(TARGET_S)),
        ({"targetSeconds": "12.5", "recipe": "studio", "scalerAddress": "router:7400"}, Trigger(12.5, "studio")),
        ({"targetSeconds": ""}, Trigger(TARGET_S)),
    ],
)
def test_a_trigger_is_read_from_kedas_metadata(metadata: dict[str, str], trigger: Trigger) -> None:
    assert Trigger.of(metadata) == trigger


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "ten", "1e400", "5s"])
def test_a_target_that_is_no_number_over_0_is_refused_by_its_key(text: str) -> None:
    with pytest.raises(InvalidField) as caught:
        Trigger.of({"targetSeconds": text})
    assert caught.value.violations[0].field == "scalerMetadata.targetSeconds"


async def test_a_stream_tells_at_once_and_then_only_what_changed() -> None:
    backlog, looks = Told(), 0
    script = [IDLE, BUSY, BUSY, IDLE, IDLE, BUSY]

    async def sleep(seconds: float) -> None:
        nonlocal looks
        assert seconds <= 0.5
        looks += 1
        if looks == len(script):
            scaler.stop()
        else:
            backlog.now = script[looks]

    scaler = Scaler(backlog=backlog, sleep=sleep)
    assert [active async for active in scaler.activity(Trigger())] == [False, True, False, True]
    assert looks == len(script)


async def test_a_stopped_scaler_ends_its_streams_though_nothing_changed() -> None:
    scaler = Scaler(backlog=Told())
    stream = scaler.activity(Trigger())
    assert await anext(stream) is False
    scaler.stop()
    async with asyncio.timeout(1):
        assert [active async for active in stream] == []


def backlog(
    fleet: FleetSnapshot, *, unplaced: Callable[[], list[Job]] = list, callers: Callable[[], int] = int
) -> FleetBacklog:
    return FleetBacklog(fleet=lambda: fleet, unplaced=unplaced, callers=callers)


def test_an_empty_fleet_without_callers_has_nothing_to_do() -> None:
    assert backlog(snapshot()).work("") == IDLE


def test_bookings_of_all_routers_count_as_queued_or_in_flight() -> None:
    waiting = {"acme": Waiting(4.0, 1.0), "harbour": Waiting(1.5, 1.0)}
    fleet = snapshot(view("w1", booked=10.0, booked_elsewhere=3.0, waiting=waiting), view("w2", booked=2.0))
    assert backlog(fleet).work("") == Work(queued_gpu_seconds=5.5, in_flight_gpu_seconds=9.5)


def test_only_workers_that_serve_the_recipe_count_for_it() -> None:
    other = registration("w2", recipes=(recipe("sdxl"),))
    fleet = snapshot(view("w1", booked=10.0), view("w2", booked=2.0, registration=other))
    assert backlog(fleet).work("studio").in_flight_gpu_seconds == 10.0
    assert backlog(fleet).work("sdxl").in_flight_gpu_seconds == 2.0
    assert backlog(fleet).work("sd15") == IDLE
    assert backlog(fleet).work("").in_flight_gpu_seconds == 12.0


def test_jobs_and_callers_without_a_worker_count_by_what_they_may_cost() -> None:
    job = Job.of(settled(count=3))
    other = replace(job, recipe=recipe("sdxl"))
    lost = backlog(snapshot(), unplaced=lambda: [job, other], callers=lambda: 2)
    assert lost.work("") == Work(2 * unmeasured_seconds(job) + 2.0, 0.0, 4)
    assert lost.work("sdxl") == Work(unmeasured_seconds(job) + 2.0, 0.0, 3)
    assert unmeasured_seconds(job) > 1
