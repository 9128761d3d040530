"""The words between a worker and what paints: jobs in, events out, adapters named by the digest of their file.

Knows nothing about torch, gRPC or where adapters come from; FakeEngine and TimedEngine stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from services.chassis.painting import RecipeFacts


class Stage(StrEnum):
    """A part of a job whose time is measured; the values name its spans."""

    FETCH = "fetch"
    VERIFY = "verify"
    COMPILE = "compile"
    COPY = "copy"
    BIND = "bind"
    PROMPT_ENCODE = "prompt.encode"
    DENOISE = "denoise"
    VAE_DECODE = "vae.decode"
    IMAGE_ENCODE = "image.encode"


#: The kind of an adapter that peft layers take, which are built for it layer by layer.
PEFT = "peft"


@dataclass(frozen=True)
class HostAdapter:
    """A file in the form that the engine copies to its device. Only the engine that read it looks into ``payload``."""

    digest: str
    size_bytes: int
    payload: object = field(repr=False)
    kind: str = PEFT  # of the engine's places: the one that it takes


@dataclass(frozen=True)
class WeightedAdapter:
    digest: str
    weight: float


@dataclass(frozen=True)
class ImageTask:
    """One picture of a job: its index among the request's images, and its own seed."""

    image: int
    seed: int


@dataclass(frozen=True)
class EngineJob:
    """What to paint, with nothing left open. Its adapters are on the device before it starts."""

    id: str
    brand: str
    recipe: str
    prompt: str
    negative_prompt: str
    adapters: tuple[WeightedAdapter, ...]
    images: tuple[ImageTask, ...]
    width: int
    height: int
    steps: int
    guidance: float  # up to 1: none
    preview_every: int = 0  # steps; 0: no previews
    reproducible: bool = False  # the same bits under any neighbours


@dataclass(frozen=True)
class Pixels:
    """A picture: RGB, 8 bits a channel, row by row."""

    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True)
class StageDone:
    """A stage of a job, from ``start_ns`` to ``end_ns`` of the worker's clock."""

    job: str
    stage: Stage
    start_ns: int
    end_ns: int
    steps: int = 0  # of DENOISE
    batch: int = 0  # of DENOISE: rows of its largest batch


@dataclass(frozen=True)
class StepDone:
    job: str
    image: int
    step: int
    steps: int
    batch_rows: int
    seconds: float = 0.0  # that the step took, for all rows of its batch together


@dataclass(frozen=True)
class PreviewReady:
    job: str
    image: int
    step: int
    pixels: Pixels


@dataclass(frozen=True)
class ImageReady:
    job: str
    image: int
    seed: int
    pixels: Pixels


@dataclass(frozen=True)
class ImageBlocked:
    """A picture that the recipe's safety checker withholds. Comes in place of its ImageReady, and has no pixels."""

    job: str
    image: int
    seed: int


@dataclass(frozen=True)
class JobDone:
    """The last event of a job. ``gpu_seconds`` are those of the device that the job is charged for."""

    job: str
    gpu_seconds: float


@dataclass(frozen=True)
class JobFailed:
    """The last event of a job that went wrong; the engine goes on with others."""

    job: str
    error: Exception


Event = StageDone | StepDone | PreviewReady | ImageReady | ImageBlocked | JobDone | JobFailed


class AdapterNotPlaced(LookupError):
    """A job names an adapter that is not on the device: a bug of the caller."""


class AdapterBroken(ValueError):
    """The file holds numbers that would spoil every picture."""


class Engine(Protocol):
    """Paints jobs in small units of work, so that others join, are cancelled and get their adapters in between.

    One thread calls all methods, that which called ``load``; only ``host_size``, ``read``, ``keep``, ``forget`` and
    ``dropped_words`` may be called on any.
    """

    @property
    def name(self) -> str:
        """What replies call it: "reference", "bank", "timed" or "fake"."""
        ...

    @property
    def device(self) -> str:
        """Where it paints: "cpu", or what CUDA calls the device."""
        ...

    @property
    def max_rows(self) -> int:
        """Rows of its largest batch."""
        ...

    @property
    def max_jobs(self) -> int:
        """Jobs that it runs at once."""
        ...

    @property
    def places(self) -> Mapping[str, int]:
        """How many adapters of each kind it has room for on its device."""
        ...

    @property
    def recipes(self) -> Sequence[RecipeFacts]:
        """What it can paint with; known once it is loaded."""
        ...

    def load(self) -> None:
        """Loads the base and paints once, so that the first job finds everything warm."""
        ...

    def close(self) -> None:
        """Ends what ``load`` began outside this process. Also after a load that failed."""
        ...

    def dropped_words(self, recipe: str, prompt: str) -> str:
        """The end of a prompt that a recipe's text encoder would not see; empty if it sees all. Any thread may call."""
        ...

    def host_size(self, path: Path, digest: str) -> int:
        """Bytes that an adapter's file will take in host memory, from its header alone. Any thread may call.

        Raises:
            LoraError: the file does not fit the base.
        """
        ...

    def read(self, path: Path, digest: str) -> HostAdapter:
        """Reads an adapter's file into host memory, at most ``host_size`` bytes. Any thread may call.

        The file need not be what its digest says yet: until ``keep``, nothing is remembered under the digest.

        Raises:
            LoraError: the file does not fit the base.
            AdapterBroken: its weights are not finite.
        """
        ...

    def keep(self, adapter: HostAdapter) -> None:
        """Told that an adapter's file is what its digest says: may save what ``read`` made of it. Any thread may call.

        Returns at once.
        """
        ...

    def forget(self, digest: str) -> None:
        """Removes what ``keep`` has saved of an adapter, whose file is gone. Any thread may call; returns at once."""
        ...

    def place(self, adapter: HostAdapter) -> None:
        """Copies an adapter to the device. Placing it again changes nothing."""
        ...

    def evict(self, digest: str) -> None:
        """Removes an adapter from the device. One that is not there changes nothing; none that runs may be named."""
        ...

    def start(self, job: EngineJob) -> None:
        """Takes a job; ``tick`` then works on it. Never called with ``max_jobs`` running.

        Raises:
            AdapterNotPlaced: one of its adapters is not on the device.
        """
        ...

    def stop(self, job: str) -> None:
        """Drops a job: no later tick works on it or reports of it. One that has ended changes nothing."""
        ...

    def curtail(self, job: str) -> bool:
        """Drops those pictures of a job of which no step has been done; the job ends as always once the others are.

        False where none of its pictures is under way: there is nothing left to wait for.
        """
        ...

    def tick(self) -> Sequence[Event]:
        """Does one unit of work for what runs, at most one denoising step. Empty when nothing runs."""
        ...
