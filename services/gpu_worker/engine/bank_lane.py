"""The bank lane: jobs as rows of one batch, from their prompts to their pictures, told in the engine's events.

Brands get rows in equal numbers while all have work. Which adapters are resident is decided by its caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.engine.bank import RowUse
from services.gpu_worker.engine.batcher import Batcher, Picture
from services.gpu_worker.engine.prompts import PromptEncoder, TextPart
from services.gpu_worker.engine.protocol import (
    EngineJob,
    Event,
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
from services.gpu_worker.engine.sampler_table import SamplerTable
from services.gpu_worker.engine.turns import next_to_seat


@dataclass(eq=False)
class _Running:
    """A job in the bank lane."""

    job: EngineJob
    uses: tuple[RowUse, ...]
    parts: tuple[TextPart, ...]
    waiting: deque[ImageTask]
    embeds: Tensor | None = None  # None: not begun
    painting: dict[Picture, tuple[ImageTask, int]] = field(default_factory=dict)  # since when, by the worker's clock
    busy_s: float = 0.0

    @property
    def under_way(self) -> int:
        return len(self.painting)

    @property
    def waits(self) -> bool:
        return self.embeds is None or bool(self.waiting)


class BankLane:
    """Each tick seats what there is room for, steps one batch and decodes what is finished."""

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        *,
        batcher: Batcher,
        prompts: PromptEncoder,
        tables: Mapping[tuple[str, int], SamplerTable],
        now: Clock,
    ) -> None:
        """Takes its parts.

        Args:
            pipe: whose VAE and sizes it uses.
            batcher: steps the pictures.
            prompts: encodes the prompts.
            tables: by recipe and number of steps.
            now: the worker's clock, once the device has done what it was told.
        """
        self._pipe, self._batcher, self._prompts, self._tables, self._now = pipe, batcher, prompts, tables, now
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
        if running.embeds is not None:
            return []
        job = running.job
        began = self._now()
        running.embeds = self._prompts.encode(
            job.prompt, job.negative_prompt, guided=job.guidance > 1, parts=running.parts
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
        table = self._tables[job.recipe, job.steps]
        # Drawn on the CPU, so that every device paints the same picture
        generator = torch.Generator().manual_seed(task.seed)
        shape = (
            1,
            pipe.unet.config.in_channels,
            job.height // pipe.vae_scale_factor,
            job.width // pipe.vae_scale_factor,
        )
        noise = torch.randn(shape, generator=generator, dtype=pipe.unet.dtype)[0].to(pipe.unet.device)
        if running.embeds is None:
            raise RuntimeError("a picture is seated before its prompt is encoded")
        picture = Picture(
            table=table,
            embeds=running.embeds,
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
                events.append(self._preview(running, task, picture, picture.foreseen))
        for together in _decoded_together(done):
            events += self._finish({picture: owners[picture] for picture in together})
        return events

    def _preview(
        self, running: _Running, task: ImageTask, picture: Picture, foreseen: Tensor
    ) -> PreviewReady | JobFailed:
        try:
            (pixels,) = self._decode([foreseen])
        except Exception as error:  # noqa: BLE001  # as in _begin
            return self._fail(running, error)
        return PreviewReady(running.job.id, task.image, picture.step, pixels)

    def _finish(self, done: Mapping[Picture, _Running]) -> list[Event]:
        """Decodes pictures in one batch, those of jobs that have failed meanwhile left out."""
        done = {picture: running for picture, running in done.items() if picture in running.painting}
        if not done:
            return []
        began = self._now()
        try:
            decoded = self._decode([picture.latents for picture in done])
        except Exception as error:  # noqa: BLE001  # as in _begin
            if len(done) > 1:
                return [event for item in done.items() for event in self._finish(dict([item]))]
            return [self._fail(running, error) for running in done.values()]
        ended = self._now()
        events: list[Event] = []
        for (picture, running), pixels in zip(done.items(), decoded, strict=True):
            job = running.job
            task, since = running.painting.pop(picture)
            self._batcher.remove(picture)
            running.busy_s += (ended - began) / 1e9 / len(done)
            events += [
                StageDone(job.id, Stage.DENOISE, since, began, steps=job.steps, batch=picture.largest_batch),
                StageDone(job.id, Stage.VAE_DECODE, began, ended),
                ImageReady(job.id, task.image, task.seed, pixels),
            ]
            if not running.waiting and not running.painting:
                events.append(self._end(running))
        return events

    def _end(self, running: _Running) -> JobDone:
        del self._jobs[running.job.id]
        return JobDone(running.job.id, running.busy_s)

    def _fail(self, running: _Running, error: Exception) -> JobFailed:
        self.stop(running.job.id)
        return JobFailed(running.job.id, error)

    def _decode(self, latents: Sequence[Tensor]) -> list[Pixels]:
        """Latents [channels, height, width] as the pictures that the pipeline would return."""
        pipe = self._pipe
        images = pipe.vae.decode(torch.stack(list(latents)) / pipe.vae.config.scaling_factor, return_dict=False)[0]
        drawn = pipe.image_processor.postprocess(images, output_type="np")
        return [
            Pixels(picture.shape[1], picture.shape[0], (picture * 255).round().astype(np.uint8).tobytes())
            for picture in drawn
        ]


def _decoded_together(done: Sequence[Picture]) -> list[list[Picture]]:
    """A pinned picture is decoded alone, the others in one batch."""
    return [[p] for p in done if p.pinned] + [[p for p in done if not p.pinned]]
