"""What a worker answers to Generate, message by message, as frozen dataclasses. Knows nothing about protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from looksmith.nouns import Tier
from services.chassis.painting import ImageFormat, Settled
from services.gpu_worker.engine.protocol import StepDone
from services.gpu_worker.swap import SwapReport


@dataclass(frozen=True)
class Accepted:
    settled: Settled
    stale_since: datetime | None


@dataclass(frozen=True)
class Placed:
    worker: str
    reason: str
    tier: Tier | None
    attempt: int


@dataclass(frozen=True)
class Swapped:
    swap: SwapReport


@dataclass(frozen=True)
class Preview:
    image: int
    step: int
    jpeg: bytes = field(repr=False)


@dataclass(frozen=True)
class Chunk:
    image: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class ImageDone:
    image: int
    seed: int
    sha256: str
    size_bytes: int
    image_format: ImageFormat
    width: int
    height: int


@dataclass(frozen=True)
class Timings:
    """Seconds, as this worker saw them."""

    total: float
    wait: float
    swap_visible: float
    swap_hidden: float
    prompt_encode: float
    denoise: float
    vae_decode: float
    image_encode: float


@dataclass(frozen=True)
class Finished:
    worker: str
    engine: str
    settled: Settled
    timings: Timings
    gpu_seconds: float
    attempts: int


Reply = Accepted | Placed | Swapped | StepDone | Preview | Chunk | ImageDone | Finished
