"""An engine without torch: keeps the Protocol, paints flat pictures made of brand, adapters and seed, waits as told.

For tests and for trying out the services around it; says nothing about how long real painting takes, which timed.py
does. The two share pretence.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, seconds, steady_clock
from services.gpu_worker.engine.pretence import Pretence, picture
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)


@dataclass(frozen=True)
class Costs:
    """Seconds that each thing takes."""

    read: float = 0.0
    copy: float = 0.0
    bind: float = 0.0
    prompt: float = 0.0
    step: float = 0.0
    decode: float = 0.0


class FakeEngine(Pretence):
    """Counts what it does: ``steps_done`` is for assertions.

    ``blocks`` is its safety checker: says of a job and the index of one of its pictures whether to withhold that.
    """

    name = "fake"
    max_rows = 1
    max_jobs = 1

    def __init__(
        self,
        recipes: Sequence[RecipeFacts],
        *,
        costs: Costs = Costs(),
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
        slots: int = 8,
        blocks: Callable[[EngineJob, int], bool] = lambda _job, _image: False,
    ) -> None:
        super().__init__(recipes, slots=slots)
        self._blocks = blocks
        self.steps_done = 0
        self._costs, self._clock, self._sleep = costs, clock or steady_clock(), sleep
        self._running: tuple[EngineJob, Iterator[list[Event]]] | None = None
        self._waiting: deque[ImageTask] = deque()  # its pictures that have not begun
        self._under_way = False  # whether one has begun and is not finished

    def start(self, job: EngineJob) -> None:
        self._check_placed(job)
        self._running = (job, self._paint(job))
        self._waiting, self._under_way = deque(job.images), False

    def stop(self, job: str) -> None:
        if self._running and self._running[0].id == job:
            self._running = None

    def curtail(self, job: str) -> bool:
        if self._running is None or self._running[0].id != job:
            return False
        self._waiting.clear()
        return self._under_way

    def tick(self) -> Sequence[Event]:
        if self._running is None:
            return ()
        events = next(self._running[1])
        if isinstance(events[-1], JobDone):
            self._running = None
        return events

    def _paint(self, job: EngineJob) -> Iterator[list[Event]]:
        began = self._clock()
        yield [
            self._stage(job, Stage.BIND, self._costs.bind),
            self._stage(job, Stage.PROMPT_ENCODE, self._costs.prompt),
        ]
        while self._waiting:
            task = self._waiting.popleft()
            started = self._clock()
            for step in range(1, job.steps + 1):
                step_began = self._clock()
                self._sleep(self._costs.step)
                took = seconds(step_began, self._clock())
                self.steps_done += 1
                self._under_way = True
                events: list[Event] = [StepDone(job.id, task.image, step, job.steps, 1, took)]
                if job.preview_every and step % job.preview_every == 0 and step < job.steps:
                    events.append(PreviewReady(job.id, task.image, step, picture(job, task.seed)))
                yield events
            denoised = StageDone(job.id, Stage.DENOISE, started, self._clock(), steps=job.steps, batch=1)
            decoded = self._stage(job, Stage.VAE_DECODE, self._costs.decode)
            self._under_way = False
            yield [denoised, decoded, self._seen(job, task)]
        yield [JobDone(job.id, seconds(began, self._clock()))]

    def _seen(self, job: EngineJob, task: ImageTask) -> ImageReady | ImageBlocked:
        if self._blocks(job, task.image):
            return ImageBlocked(job.id, task.image, task.seed)
        return ImageReady(job.id, task.image, task.seed, picture(job, task.seed))

    def _stage(self, job: EngineJob, stage: Stage, cost: float) -> StageDone:
        start = self._clock()
        self._sleep(cost)
        return StageDone(job.id, stage, start, self._clock())

    def _wait_for_reading(self, size_bytes: int) -> None:  # noqa: ARG002  # a file is a file to it
        self._sleep(self._costs.read)

    def _wait_for_placing(self, size_bytes: int) -> None:  # noqa: ARG002  # as above
        self._sleep(self._costs.copy)
