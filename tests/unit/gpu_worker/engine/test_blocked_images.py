"""What every engine with a safety checker keeps about pictures that it blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import (
    Engine,
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    ImageTask,
    JobDone,
    Stage,
    StageDone,
    StepDone,
)
from tests.unit.gpu_worker.worker_parts import engine_job, facts

Checker = Callable[[EngineJob, int], bool]
#: Engines whose checker can be told what to block.
MAKERS: dict[str, Callable[[Checker], Engine]] = {"fake": lambda blocks: FakeEngine([facts()], blocks=blocks)}

THREE = engine_job(images=(ImageTask(0, 7), ImageTask(1, 8), ImageTask(2, 9)))


@pytest.fixture(params=MAKERS)
def making(request: pytest.FixtureRequest) -> Callable[[Checker], Engine]:
    return MAKERS[request.param]


def run(engine: Engine, job: EngineJob) -> list[Event]:
    engine.start(job)
    events: list[Event] = []
    while more := engine.tick():
        events += more
    return events


def ends(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, ImageReady | ImageBlocked)]


def test_blocked_picture_takes_the_place_of_its_image_and_the_others_are_as_ever(
    making: Callable[[Checker], Engine],
) -> None:
    first, second, third = ends(run(making(lambda _job, _image: False), THREE))
    events = run(making(lambda _job, image: image == 1), THREE)
    assert ends(events) == [first, ImageBlocked("j1", 1, 8), third]
    assert isinstance(second, ImageReady) and second.seed == 8
    assert isinstance(events[-1], JobDone)


def test_blocked_picture_is_stepped_and_decoded_as_any_other_and_charged_for(
    making: Callable[[Checker], Engine],
) -> None:
    events = run(making(lambda _job, _image: True), THREE)
    assert [e.step for e in events if isinstance(e, StepDone) and e.image == 1] == [1, 2, 3, 4]
    stages = [event.stage for event in events if isinstance(event, StageDone)]
    assert (stages.count(Stage.DENOISE), stages.count(Stage.VAE_DECODE)) == (3, 3)
    assert isinstance(events[-1], JobDone)
    assert events[-1].gpu_seconds > 0


def test_checker_is_asked_about_the_job_and_the_picture_s_index_in_the_request(
    making: Callable[[Checker], Engine],
) -> None:
    asked: list[tuple[str, int]] = []

    def notes(job: EngineJob, image: int) -> bool:
        asked.append((job.id, image))
        return False

    run(making(notes), engine_job("portion", images=(ImageTask(3, 10), ImageTask(5, 12))))
    assert asked == [("portion", 3), ("portion", 5)]
