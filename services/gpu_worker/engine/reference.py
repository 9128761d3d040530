"""Paints with diffusers and peft, one job at a time, exactly as the pipelines of SD and SDXL would.

Its loop is the pipeline's own, cut into single steps so that progress streams and a cancelled job ends within one.
Every other engine is measured against it; what adapters are on the device is decided by its caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import Tokenizer
from torch import Tensor

from looksmith.lora import ModuleTable
from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.engine.adapters import LoraTensors, add_lora, read_lora, remove_lora
from services.gpu_worker.engine.base import load_base, models_of, new_scheduler
from services.gpu_worker.engine.conditioning import added, encoded
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.pictures import decoded
from services.gpu_worker.engine.pipelines import Pipeline
from services.gpu_worker.engine.protocol import (
    PEFT,
    AdapterNotPlaced,
    EngineJob,
    Event,
    HostAdapter,
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
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe import Recipe
from services.gpu_worker.engine.safety import SafetyChecker, safety_checkers
from services.gpu_worker.engine.warm_up import warm_up


class ReferenceEngine:
    """The base of its recipes, which must be one and the same, with peft layers for the adapters in it."""

    name = "reference"
    max_rows = 1
    max_jobs = 1

    def __init__(self, recipes: Sequence[Recipe], *, device: str, threads: int, slots: int, clock: Clock) -> None:
        first = recipes[0]
        for other in recipes[1:]:
            if other.weights != first.weights:
                raise other.mistake("base", f"differs from that of {first.file}")
        self.known = {recipe.name: recipe for recipe in recipes}
        self._device = torch.device(device)
        self._threads = threads
        self._slots = slots
        self._clock = clock
        self._facts: tuple[RecipeFacts, ...] = ()
        self.pipe: Pipeline
        self.safety: Mapping[str, SafetyChecker] = {}  # by recipe
        self._tokens: Tokenizer
        self.table: ModuleTable
        self._placed: set[str] = set()
        self._bound: tuple[WeightedAdapter, ...] | None = None  # None: not known
        self._running: tuple[EngineJob, Iterator[list[Event]]] | None = None
        self._waiting: deque[ImageTask] = deque()  # its pictures that have not begun
        self._under_way = False  # whether one has begun and is not finished
        self._busy_ns = 0

    @property
    def device(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type

    @property
    def places(self) -> Mapping[str, int]:
        return {PEFT: self._slots}

    @property
    def recipes(self) -> Sequence[RecipeFacts]:
        return self._facts

    def load(self) -> None:
        self.prepare()
        warm_up(self)

    def prepare(self) -> None:
        """Loads all that it paints with, and paints nothing: whoever has it as a part warms up itself."""
        if self._threads:
            torch.set_num_threads(self._threads)
        facts = tuple(recipe.weighed() for recipe in self.known.values())
        recipe = next(iter(self.known.values()))
        self.pipe = load_base(recipe, self._device)
        # A copy for questions from other threads: the pipeline's remembers that it truncates.
        self._tokens = Tokenizer.from_str(self.pipe.tokenizer.backend_tokenizer.to_str())
        self._tokens.no_truncation()
        self._tokens.no_padding()
        self.table = table_of(models_of(self.pipe), family=recipe.family, digest=facts[0].base_digest)
        self.safety = safety_checkers(self.known.values(), self._device, self.pipe.unet.dtype)
        self._facts = facts

    def close(self) -> None:
        """Nothing to end."""

    def dropped_words(self, recipe: str, prompt: str) -> str:  # noqa: ARG002  # all its recipes have one base
        places = self._tokens.encode(prompt).offsets
        limit = int(self.pipe.tokenizer.model_max_length)
        return prompt[places[limit - 1][0] :] if len(places) > limit else ""

    def host_size(self, path: Path, digest: str) -> int:  # noqa: ARG002  # of the protocol
        return path.stat().st_size

    def read(self, path: Path, digest: str) -> HostAdapter:
        lora = read_lora(path, self.table)
        return HostAdapter(digest, lora.size_bytes, lora)

    def keep(self, adapter: HostAdapter) -> None:
        """Saves nothing: it reads files as they are."""

    def forget(self, digest: str) -> None:
        """Has saved nothing."""

    def place(self, adapter: HostAdapter) -> None:
        if adapter.digest in self._placed:
            return
        if not isinstance(adapter.payload, LoraTensors):
            raise TypeError("the adapter was read by another engine")
        self._bound = None  # loading makes the new adapter the active one
        add_lora(self.pipe, adapter.digest, adapter.payload)
        self._placed.add(adapter.digest)

    def evict(self, digest: str) -> None:
        if digest in self._placed:
            self._bound = None
            remove_lora(self.pipe, digest)
            self._placed.remove(digest)

    def start(self, job: EngineJob) -> None:
        for adapter in job.adapters:
            if adapter.digest not in self._placed:
                raise AdapterNotPlaced(adapter.digest)
        self._running = (job, self._paint(job))
        self._waiting, self._under_way = deque(job.images), False
        self._busy_ns = 0

    def stop(self, job: str) -> None:
        if self._running and self._running[0].id == job:
            self._running = None

    def curtail(self, job: str) -> bool:
        if self._running is None or self._running[0].id != job:
            return False
        self._waiting.clear()
        return self._under_way

    @torch.inference_mode()
    def tick(self) -> Sequence[Event]:
        if self._running is None:
            return ()
        job, work = self._running
        began = self._clock()
        try:
            if events := next(work, None):
                return events
            self._running = None
            return [JobDone(job.id, self._busy_ns / 1e9)]
        except Exception as error:  # noqa: BLE001  # whatever torch raises ends this job, not the worker
            self._running = None
            return [JobFailed(job.id, error)]
        finally:
            self._busy_ns += self._clock() - began

    def _bind(self, adapters: tuple[WeightedAdapter, ...]) -> None:
        """Makes exactly these adapters act, at their weights."""
        if self._bound == adapters:
            return
        for model in models_of(self.pipe).values():
            for layer in model.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.enable_adapters(bool(adapters))
        if adapters:
            self.pipe.set_adapters([a.digest for a in adapters], [a.weight for a in adapters])
        self._bound = adapters

    def _paint(self, job: EngineJob) -> Iterator[list[Event]]:
        """One list of events a unit of work; the words of the pipeline's ``__call__`` where it does the same."""
        recipe, pipe = self.known[job.recipe], self.pipe
        guided = job.guidance > 1
        # 1. Bind the adapters
        began = self._clock()
        self._bind(job.adapters)
        bound = self._clock()
        # 2. Encode the prompt, once for all images
        told = encoded(pipe, job.prompt, job.negative_prompt, guided=guided, clip_skip=recipe.clip_skip)
        more = added(told, width=job.width, height=job.height)
        yield [
            StageDone(job.id, Stage.BIND, began, bound),
            StageDone(job.id, Stage.PROMPT_ENCODE, bound, self.now()),
        ]
        while self._waiting:
            task = self._waiting.popleft()
            # 3. Draw the noise: on the CPU, so that every device paints the same picture
            started = self.now()
            generator = torch.Generator("cpu").manual_seed(task.seed)
            pipe.scheduler = scheduler = new_scheduler(recipe, job.steps, self._device)
            channels = pipe.unet.config.in_channels
            latents = pipe.prepare_latents(
                1, channels, job.height, job.width, told.embeds.dtype, self._device, generator
            )
            extra = pipe.prepare_extra_step_kwargs(generator, recipe.sampler.eta)
            # 4. Denoise
            for step, t in enumerate(scheduler.timesteps, start=1):
                began = self.now()
                self._bind(job.adapters)  # others may have been placed since the last step
                rows = torch.cat([latents] * 2) if guided else latents
                noise = pipe.unet(
                    scheduler.scale_model_input(rows, t),
                    t,
                    encoder_hidden_states=told.embeds,
                    added_cond_kwargs=more,
                    return_dict=False,
                )[0]
                if guided:
                    without, asked = noise.chunk(2)
                    noise = without + job.guidance * (asked - without)
                made = scheduler.step(noise, t, latents, **extra)
                latents = made.prev_sample
                self._under_way = True
                took = seconds(began, self.now())
                events: list[Event] = [StepDone(job.id, task.image, step, job.steps, len(rows), took)]
                if job.preview_every and step % job.preview_every == 0 and step < job.steps:
                    (pixels,) = decoded(pipe, _estimate(made))
                    if not self._blocked(job, pixels):
                        events.append(PreviewReady(job.id, task.image, step, pixels))
                yield events
            # 5. Decode
            denoised = self.now()
            (pixels,) = decoded(pipe, latents)
            blocked = self._blocked(job, pixels)
            self._under_way = False
            yield [
                StageDone(job.id, Stage.DENOISE, started, denoised, steps=job.steps, batch=len(rows)),
                StageDone(job.id, Stage.VAE_DECODE, denoised, self.now()),
                ImageBlocked(job.id, task.image, task.seed)
                if blocked
                else ImageReady(job.id, task.image, task.seed, pixels),
            ]

    def _blocked(self, job: EngineJob, pixels: Pixels) -> bool:
        checker = self.safety.get(job.recipe)
        return checker is not None and checker.blocks([pixels])[0]

    def now(self) -> int:
        """The time once the device has done what it was told."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()


def _estimate(made: object) -> Tensor:
    """What a step thinks the end will be, where its sampler says; else where it stands."""
    for name in ("pred_original_sample", "denoised"):
        estimate = getattr(made, name, None)
        if isinstance(estimate, Tensor):
            return estimate
    latents: Tensor = made.prev_sample  # type: ignore[attr-defined]  # every sampler's output has it
    return latents
