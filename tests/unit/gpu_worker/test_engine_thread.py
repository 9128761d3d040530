from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.engine.protocol import Event, JobDone, StepDone
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.progress import LEAST_S, UNKNOWN_S
from tests.unit.gpu_worker.worker_parts import engine_job, eventually, facts


class Ear:
    """Hears an engine out."""

    def __init__(self, thread: EngineThread) -> None:
        self.events: list[Event] = []
        self.failures: list[Exception] = []
        thread.listen(self._hear, self.failures.append)

    def _hear(self, events: Sequence[Event]) -> None:
        self.events += events


async def test_runs_everything_on_one_thread_that_is_not_the_event_loop_s() -> None:
    async with EngineThread(FakeEngine([facts()]), clock=steady_clock()) as thread:
        names = {await thread.call(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"engine"}


async def test_events_arrive_in_order_on_the_event_loop() -> None:
    engine = FakeEngine([facts()])
    async with EngineThread(engine, clock=steady_clock()) as thread:
        ear = Ear(thread)
        await thread.call(lambda: engine.start(engine_job()))
        await eventually(lambda: any(isinstance(event, JobDone) for event in ear.events))
    assert [event.step for event in ear.events if isinstance(event, StepDone)] == [1, 2, 3, 4]


@pytest.mark.parametrize("blocked", [False, True])
async def test_how_long_units_take_is_known_once_a_picture_is_painted_though_nobody_may_see_it(
    blocked: bool,  # noqa: FBT001  # pytest gives it by name
) -> None:
    engine = FakeEngine([facts()], blocks=lambda _job, _image: blocked)
    async with EngineThread(engine, clock=steady_clock()) as thread:
        ear = Ear(thread)
        assert thread.progress._limit_s() == UNKNOWN_S
        await thread.call(lambda: engine.start(engine_job()))
        await eventually(lambda: any(isinstance(event, JobDone) for event in ear.events))
        assert thread.progress._limit_s() == LEAST_S


async def test_commands_run_between_steps_and_need_not_wait_for_the_job() -> None:
    gate = threading.Semaphore(0)

    def wait_for_leave(seconds: float) -> None:
        if seconds:
            gate.acquire(timeout=5)

    engine = FakeEngine([facts()], costs=Costs(step=1), sleep=wait_for_leave)
    async with EngineThread(engine, clock=steady_clock()) as thread:
        Ear(thread)
        await thread.call(lambda: engine.start(engine_job()))
        asked = asyncio.create_task(thread.call(lambda: engine.steps_done))
        await asyncio.sleep(0)  # it is asked for before there is leave to step
        gate.release(2)
        assert await asyncio.wait_for(asked, 2) <= 2
        gate.release(10)


async def test_what_a_command_raises_is_raised_to_its_caller() -> None:
    async with EngineThread(FakeEngine([facts()]), clock=steady_clock()) as thread:
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda: 1 // 0)
        assert await thread.call(lambda: 1) == 1


async def test_engine_that_breaks_in_a_step_is_reported_and_its_thread_lives_on() -> None:
    class Breakable(FakeEngine):
        broken = False

        def tick(self) -> Sequence[Event]:
            if self.broken:
                raise MemoryError("out of it")
            return super().tick()

    engine = Breakable([facts()])
    async with EngineThread(engine, clock=steady_clock()) as thread:
        ear = Ear(thread)
        with capture_logs() as lines:
            engine.broken = True
            await thread.call(lambda: None)
            await eventually(lambda: ear.failures)
        assert {line["event"] for line in lines} == {"engine.failed"}
        assert await thread.call(lambda: 2) == 2


async def test_engine_that_can_t_load_leaves_no_thread_behind() -> None:
    class Absent(FakeEngine):
        def load(self) -> None:
            raise FileNotFoundError("no weights")

    thread = EngineThread(Absent([facts()]), clock=steady_clock())
    with pytest.raises(FileNotFoundError):
        async with thread:
            pass
    assert not thread._thread.is_alive()


async def test_an_engine_that_can_not_be_loaded_is_asked_for_no_work() -> None:
    class Broken(FakeEngine):
        def load(self) -> None:
            raise FileNotFoundError("no weights")

        def tick(self) -> Sequence[Event]:
            raise AttributeError("not loaded")

    with capture_logs() as logs, pytest.raises(FileNotFoundError, match="no weights"):
        async with EngineThread(Broken([facts()]), clock=steady_clock()):
            pass
    assert logs == []
