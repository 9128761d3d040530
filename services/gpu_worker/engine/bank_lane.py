"""The bank lane: jobs as rows of one batch, from their prompts to their pictures, told in the engine's events.

Brands get rows in equal numbers while all have work. Which adapters are resident is decided by its caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.engine.bank import RowUse
from services.gpu_worker.engine.batcher import Batcher, Picture
from services.gpu_worker.engine.conditioning import Conditioning, added
from services.gpu_worker.engine.pictures import decoded
from services.gpu_worker.engine.pipelines import Pipeline
from services.gpu_worker.engine.prompts import PromptEncoder, TextPart
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
    ImageBlocked,
    ImageReady,
    ImageTask,
    JobDone,
    JobFailed,
    Pixels,
    PreviewReady,
    Stage,
    StageDone,
    StepDone,
)
from services.gpu_worker.engine.safety import SafetyChecker
from services.gpu_worker.engine.sampler_table import SamplerTable
from services.gpu_worker.engine.turns import next_to_seat


@dataclass(frozen=True)
class LaneRecipe:
    """What the lane must know of a recipe."""

    tables: Mapping[int, SamplerTable]  # by the number of steps
    clip_skip: int = 0
    safety: SafetyChecker | None = None


@dataclass(eq=False)
class _Running:
    """A job in the bank lane."""

    job: EngineJob
    uses: tuple[RowUse, ...]
    parts: tuple[TextPart, ...]
    waiting: deque[ImageTask]
    told: Conditioning | None = None  # None: not begun
    painting: dict[Picture, tuple[ImageTask, int]] = field(default_factory=dict)  # since when, by the worker's clock
    busy_s: float = 0.0

    @property
    def under_way(self) -> int:
        return len(self.painting)

    @property
    def waits(self) -> bool:
        return self.told is None or bool(self.waiting)


class BankLane:
    """Each tick seats what there is room for, steps one batch and decodes what is finished."""

    def __init__(
        self,
        pipe: Pipeline,
        *,
        batcher: Batcher,
        prompts: PromptEncoder,
        recipes: Mapping[str, LaneRecipe],
        now: Clock,
    ) -> None:
        """Takes its parts.

        Args:
            pipe: whose VAE and sizes it uses.
            batcher: steps the pictures.
            prompts: encodes the prompts.
            recipes: by name.
            now: the worker's clock, once the device has done what it was told.
        """
        self._pipe, self._batcher, self._prompts, self._recipes, self._now = pipe, batcher, prompts, recipes, now
        self._jobs: dict[str, _Running] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: EngineJob, parts: Sequence[TextPart]) -> None:
        """Takes a job whose adapters are in the bank; ``parts``: what they change in the text encoder."""
        uses = tuple(RowUse(adapter.digest, adapter.weight) for adapter in job.adapters)
        self._jobs[job.id] = _Running(job, uses, tuple(parts), waiting=deque(job.images))

    def stop(self, job: str) -> None:
        """Drops a job. One that has ended changes nothing."""
        if running := self._jobs.pop(job, None):
            for picture in running.painting:
                self._batcher.remove(picture)
            running.painting.clear()

    def curtail(self, job: str) -> bool:
        """Drops those of its pictures that have not begun; False where none is under way."""
        running = self._jobs.get(job)
        if running is None:
            return False
        running.waiting.clear()
        for picture in [picture for picture in running.painting if picture.step == 0]:
            self._batcher.remove(picture)
            del running.painting[picture]
        return bool(running.painting)

    def tick(self) -> list[Event]:
        return [*self._begin(), *self._step()]

    def _begin(self) -> list[Event]:
        """Seats as many pictures as there are free rows for, brands in turn."""
        events: list[Event] = []
        while running := next_to_seat(self._jobs.values(), self._batcher.free_rows):
            try:
                events += self._prepare(running)
                if running.waiting:
                    self._seat(running)
                else:
                    events.append(self._end(running))
            except Exception as error:  # noqa: BLE001  # whatever torch raises ends this job, not the worker
                events.append(self._fail(running, error))
        return events

    def _prepare(self, running: _Running) -> list[Event]:
        if running.told is not None:
            return []
        job = running.job
        began = self._now()
        running.told = self._prompts.encode(
            job.prompt,
            job.negative_prompt,
            guided=job.guidance > 1,
            clip_skip=self._recipes[job.recipe].clip_skip,
            parts=running.parts,
        )
        encoded = self._now()
        running.busy_s += (encoded - began) / 1e9
        # Which slot a row reads is an index; copying a block to its row's place is part of the row's first step.
        return [
            StageDone(job.id, Stage.BIND, began, began),
            StageDone(job.id, Stage.PROMPT_ENCODE, began, encoded),
        ]

    def _seat(self, running: _Running) -> None:
        job, pipe = running.job, self._pipe
        task = running.waiting.popleft()
        table = self._recipes[job.recipe].tables[job.steps]
        # Drawn on the CPU, so that every device paints the same picture
        generator = torch.Generator().manual_seed(task.seed)
        shape = (
            1,
            pipe.unet.config.in_channels,
            job.height // pipe.vae_scale_factor,
            job.width // pipe.vae_scale_factor,
        )
        noise = torch.randn(shape, generator=generator, dtype=pipe.unet.dtype)[0].to(pipe.unet.device)
        if running.told is None:
            raise RuntimeError("a picture is seated before its prompt is encoded")
        picture = Picture(
            table=table,
            embeds=running.told.embeds,
            added=added(running.told, width=job.width, height=job.height),
            uses=running.uses,
            guidance=job.guidance,
            latents=noise * table.init_scale,
            generator=generator,
            pinned=job.reproducible,
        )
        running.painting[picture] = (task, self._now())
        self._batcher.add(picture)

    def _step(self) -> list[Event]:
        began = self._now()
        outcome = self._batcher.step()
        stepped = self._now()
        owners = {picture: running for running in self._jobs.values() for picture in running.painting}
        took, rows = seconds(began, stepped), sum(picture.rows for picture in outcome)
        events: list[Event] = []
        done: list[Picture] = []
        for picture, error in outcome.items():
            running = owners[picture]
            if running.job.id not in self._jobs:
                continue  # another of its pictures has failed
            if error is not None:
                events.append(self._fail(running, error))
                continue
            job, (task, _) = running.job, running.painting[picture]
            running.busy_s += took * picture.rows / rows
            events.append(StepDone(job.id, task.image, picture.step, job.steps, rows, took))
            if picture.done:
                done.append(picture)
            elif job.preview_every and picture.step % job.preview_every == 0 and picture.foreseen is not None:
                events += self._preview(running, task, picture, picture.foreseen)
        for together in _decoded_together(done):
            events += self._finish({picture: owners[picture] for picture in together})
        return events

    def _preview(self, running: _Running, task: ImageTask, picture: Picture, foreseen: Tensor) -> list[Event]:
        try:
            (pixels,) = self._drawn([(running, foreseen)])
        except Exception as error:  # noqa: BLE001  # as in _begin
            return [self._fail(running, error)]
        return [PreviewReady(running.job.id, task.image, picture.step, pixels)] if pixels else []

    def _finish(self, done: Mapping[Picture, _Running]) -> list[Event]:
        """Decodes pictures in one batch, those of jobs that have failed meanwhile left out."""
        done = {picture: running for picture, running in done.items() if picture in running.painting}
        if not done:
            return []
        began = self._now()
        try:
            drawn = self._drawn([(running, picture.latents) for picture, running in done.items()])
        except Exception as error:  # noqa: BLE001  # as in _begin
            if len(done) > 1:
                return [event for item in done.items() for event in self._finish(dict([item]))]
            return [self._fail(running, error) for running in done.values()]
        ended = self._now()
        events: list[Event] = []
        for (picture, running), pixels in zip(done.items(), drawn, strict=True):
            job = running.job
            task, since = running.painting.pop(picture)
            self._batcher.remove(picture)
            running.busy_s += (ended - began) / 1e9 / len(done)
            events += [
                StageDone(job.id, Stage.DENOISE, since, began, steps=job.steps, batch=picture.largest_batch),
                StageDone(job.id, Stage.VAE_DECODE, began, ended),
                ImageReady(job.id, task.image, task.seed, pixels)
                if pixels
                else ImageBlocked(job.id, task.image, task.seed),
            ]
            if not running.waiting and not running.painting:
                events.append(self._end(running))
        return events

    def _drawn(self, latents: Sequence[tuple[_Running, Tensor]]) -> list[Pixels | None]:
        """Decodes in one batch; None where a recipe's safety checker withholds the picture."""
        pictures = decoded(self._pipe, torch.stack([each for _, each in latents]))
        checkers = [self._recipes[running.job.recipe].safety for running, _ in latents]
        return [
            None if checker and checker.blocks([pixels])[0] else pixels
            for checker, pixels in zip(checkers, pictures, strict=True)
        ]

    def _end(self, running: _Running) -> JobDone:
        del self._jobs[running.job.id]
        return JobDone(running.job.id, running.busy_s)

    def _fail(self, running: _Running, error: Exception) -> JobFailed:
        self.stop(running.job.id)
        return JobFailed(running.job.id, error)


def _decoded_together(done: Sequence[Picture]) -> list[list[Picture]]:
    """A pinned picture is decoded alone, the others in one batch."""
    return [[p] for p in done if p.pinned] + [[p for p in done if not p.pinned]]
