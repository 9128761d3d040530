"""An engine that takes the bank's time without its work: many brands in one batch, and each wait as it was measured.

For tests and benchmarks of what stands around a worker. Paints FakeEngine's flat pictures; what things take is in
timed_costs.py. A guided picture is two rows, a batch is padded to the next size, pictures of one size are stepped after
those of another, and device time is shared by rows, all as in bank_lane.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.engine.pretence import Pretence, picture
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageReady,
    ImageTask,
    JobDone,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)
from services.gpu_worker.engine.timed_costs import TimedCosts
from services.gpu_worker.engine.turns import next_to_seat, rows_of


@dataclass(eq=False)
class _Picture:
    """A picture that has its rows."""

    running: _Running
    task: ImageTask
    since_ns: int
    step: int = 0
    largest_batch: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.running.job.width, self.running.job.height

    @property
    def rows(self) -> int:
        return rows_of(self.running.job)

    @property
    def pinned(self) -> bool:
        return self.running.job.reproducible


@dataclass(eq=False)
class _Running:
    job: EngineJob
    waiting: deque[ImageTask]
    begun: bool = False
    painting: list[_Picture] = field(default_factory=list)
    busy_s: float = 0.0

    @property
    def under_way(self) -> int:
        return len(self.painting)

    @property
    def waits(self) -> bool:
        return not self.begun or bool(self.waiting)


class TimedEngine(Pretence):
    """A tick seats what there is room for, steps one batch and decodes what is finished, as the bank's does."""

    name = "timed"

    def __init__(
        self,
        recipes: Sequence[RecipeFacts],
        *,
        costs: TimedCosts,
        batch_sizes: Sequence[int],
        slots: int,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Takes what it is to pretend.

        Args:
            recipes: what it says it serves; no weights are read.
            costs: how long each thing takes.
            batch_sizes: in rows.
            slots: adapters that it has room for.
            clock: the worker's.
            sleep: how it waits.
        """
        super().__init__(recipes, slots=slots)
        self._costs, self._buckets, self._clock, self._sleep = costs, sorted(batch_sizes), clock, sleep
        self._jobs: dict[str, _Running] = {}
        self._seated: list[_Picture] = []  # those of the size to be stepped next come first

    @property
    def max_rows(self) -> int:
        return self._buckets[-1]

    @property
    def max_jobs(self) -> int:
        return self._buckets[-1]

    def start(self, job: EngineJob) -> None:
        self._check_placed(job)
        self._jobs[job.id] = _Running(job, deque(job.images))

    def stop(self, job: str) -> None:
        if running := self._jobs.pop(job, None):
            self._unseat(running.painting)

    def curtail(self, job: str) -> bool:
        running = self._jobs.get(job)
        if running is None:
            return False
        running.waiting.clear()
        self._unseat([seated for seated in running.painting if seated.step == 0])
        return bool(running.painting)

    def tick(self) -> Sequence[Event]:
        return [*self._begin(), *self._step()]

    def _begin(self) -> list[Event]:
        events: list[Event] = []
        while running := next_to_seat(self._jobs.values(), self.max_rows - sum(p.rows for p in self._seated)):
            if not running.begun:
                events += self._encode_prompt(running)
            if running.waiting:
                seated = _Picture(running, running.waiting.popleft(), self._clock())
                running.painting.append(seated)
                self._seated.append(seated)
            else:
                events.append(self._end(running))
        return events

    def _encode_prompt(self, running: _Running) -> list[Event]:
        running.begun = True
        began, ended = self._wait(self._costs.prompt)
        running.busy_s += seconds(began, ended)
        identity = running.job.id
        return [
            StageDone(identity, Stage.BIND, began, began),
            StageDone(identity, Stage.PROMPT_ENCODE, began, ended),
        ]

    def _step(self) -> list[Event]:
        if not self._seated:
            return []
        # 1. The batch: pictures of one size, which then let those of other sizes go first
        batch = [seated for seated in self._seated if seated.size == self._seated[0].size]
        self._seated = [seated for seated in self._seated if seated not in batch] + batch
        rows = sum(seated.rows for seated in batch)
        # 2. The step takes its time, which jobs share by rows
        began, ended = self._wait(self._costs.step.at(self._bucket(batch, rows)))
        took = seconds(began, ended)
        events: list[Event] = []
        for seated in batch:
            job = seated.running.job
            seated.running.busy_s += took * seated.rows / rows
            seated.step += 1
            seated.largest_batch = max(seated.largest_batch, rows)
            events.append(StepDone(job.id, seated.task.image, seated.step, job.steps, rows, took))
            if job.preview_every and seated.step % job.preview_every == 0 and seated.step < job.steps:
                self._wait(self._costs.decode.at(1))
                events.append(PreviewReady(job.id, seated.task.image, seated.step, picture(job, seated.task.seed)))
        # 3. What is finished is decoded in one batch; a pinned picture alone
        done = [seated for seated in batch if seated.step == seated.running.job.steps]
        for pinned in (seated for seated in done if seated.pinned):
            events += self._finish([pinned])
        return events + self._finish([seated for seated in done if not seated.pinned])

    def _bucket(self, batch: Sequence[_Picture], rows: int) -> int:
        """Rows of the batch, padding included."""
        if any(seated.pinned for seated in batch):
            return self._buckets[-1]
        return next(bucket for bucket in self._buckets if bucket >= rows)

    def _finish(self, done: Sequence[_Picture]) -> list[Event]:
        if not done:
            return []
        began, ended = self._wait(self._costs.decode.at(len(done)))
        events: list[Event] = []
        for seated in done:
            running, job, task = seated.running, seated.running.job, seated.task
            self._unseat([seated])
            running.busy_s += seconds(began, ended) / len(done)
            events += [
                StageDone(job.id, Stage.DENOISE, seated.since_ns, began, steps=job.steps, batch=seated.largest_batch),
                StageDone(job.id, Stage.VAE_DECODE, began, ended),
                ImageReady(job.id, task.image, task.seed, picture(job, task.seed)),
            ]
            if not running.waiting and not running.painting:
                events.append(self._end(running))
        return events

    def _end(self, running: _Running) -> JobDone:
        del self._jobs[running.job.id]
        return JobDone(running.job.id, running.busy_s)

    def _unseat(self, leaving: Sequence[_Picture]) -> None:
        for seated in list(leaving):
            self._seated.remove(seated)
            seated.running.painting.remove(seated)

    def _wait(self, duration_s: float) -> tuple[int, int]:
        """Waits; from when to when it really took, by the worker's clock."""
        began = self._clock()
        self._sleep(duration_s)
        return began, self._clock()

    def _wait_for_reading(self, size_bytes: int) -> None:
        self._sleep(self._costs.read.at(size_bytes))

    def _wait_for_placing(self, size_bytes: int) -> None:
        self._sleep(self._costs.place.at(size_bytes))
