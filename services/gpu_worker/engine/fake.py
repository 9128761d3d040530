"""An engine without torch: keeps the Protocol, paints flat pictures made of brand, adapters and seed, waits as told.

For tests and for trying out the services around it; says nothing about how long real painting takes.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, seconds, steady_clock
from services.gpu_worker.engine.protocol import (
    AdapterNotPlaced,
    EngineJob,
    Event,
    HostAdapter,
    ImageReady,
    ImageTask,
    JobDone,
    Pixels,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)

MAX_WORDS = 30


@dataclass(frozen=True)
class Costs:
    """Seconds that each thing takes."""

    read: float = 0.0
    copy: float = 0.0
    bind: float = 0.0
    prompt: float = 0.0
    step: float = 0.0
    decode: float = 0.0


class FakeEngine:
    """Counts what it does: ``steps_done`` and ``placements`` are for assertions."""

    name = "fake"
    device = "cpu"
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
    ) -> None:
        self.recipes = tuple(recipes)
        self.places = {"peft": slots}
        self.steps_done = 0
        self.placements: list[str] = []
        self.kept: list[str] = []
        self._costs, self._clock, self._sleep = costs, clock or steady_clock(), sleep
        self._placed: set[str] = set()
        self._running: tuple[EngineJob, Iterator[list[Event]]] | None = None
        self._waiting: deque[ImageTask] = deque()  # its pictures that have not begun
        self._under_way = False  # whether one has begun and is not finished

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to end."""

    def dropped_words(self, prompt: str) -> str:
        return " ".join(prompt.split()[MAX_WORDS:])

    def host_size(self, path: Path, digest: str) -> int:  # noqa: ARG002  # of the protocol
        return path.stat().st_size

    def read(self, path: Path, digest: str) -> HostAdapter:
        self._sleep(self._costs.read)
        return HostAdapter(digest, path.stat().st_size, None)

    def keep(self, adapter: HostAdapter) -> None:
        self.kept.append(adapter.digest)

    def forget(self, digest: str) -> None:
        self.kept = [kept for kept in self.kept if kept != digest]

    def place(self, adapter: HostAdapter) -> None:
        if adapter.digest not in self._placed:
            self._sleep(self._costs.copy)
            self._placed.add(adapter.digest)
            self.placements.append(adapter.digest)

    def evict(self, digest: str) -> None:
        self._placed.discard(digest)

    def start(self, job: EngineJob) -> None:
        for adapter in job.adapters:
            if adapter.digest not in self._placed:
                raise AdapterNotPlaced(adapter.digest)
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
                self._sleep(self._costs.step)
                self.steps_done += 1
                self._under_way = True
                events: list[Event] = [StepDone(job.id, task.image, step, job.steps, 1)]
                if job.preview_every and step % job.preview_every == 0 and step < job.steps:
                    events.append(PreviewReady(job.id, task.image, step, picture(job, task.seed)))
                yield events
            denoised = StageDone(job.id, Stage.DENOISE, started, self._clock(), steps=job.steps, batch=1)
            decoded = self._stage(job, Stage.VAE_DECODE, self._costs.decode)
            self._under_way = False
            yield [denoised, decoded, ImageReady(job.id, task.image, task.seed, picture(job, task.seed))]
        yield [JobDone(job.id, seconds(began, self._clock()))]

    def _stage(self, job: EngineJob, stage: Stage, cost: float) -> StageDone:
        start = self._clock()
        self._sleep(cost)
        return StageDone(job.id, stage, start, self._clock())


def picture(job: EngineJob, seed: int) -> Pixels:
    """One colour, which names brand, adapters, weights and seed."""
    named = "|".join([job.brand, *(f"{a.digest}:{a.weight}" for a in job.adapters), str(seed)])
    colour = hashlib.sha256(named.encode()).digest()[:3]
    return Pixels(job.width, job.height, colour * (job.width * job.height))
