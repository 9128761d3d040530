"""What happens while a request is painted, message by message, as routers and workers both tell it.

Knows nothing about protobuf, nor about who tells whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from looksmith.nouns import SAFETY_CHECKER, Tier
from services.chassis.painting import ImageFormat, Settled


@dataclass(frozen=True)
class Accepted:
    """``stale_since``: the registry could not reach its store then, and answered from memory."""

    settled: Settled
    stale_since: datetime | None = None


@dataclass(frozen=True)
class Queued:
    """The request waits; ``expected_s`` from now, None if nobody knows."""

    reason: str
    waited_s: float
    expected_s: float | None = None


@dataclass(frozen=True)
class Placed:
    """``tier`` is where the slowest adapter was found; None: the request needs none.

    ``images`` are those that the worker paints; none: all that are left.
    """

    worker: str
    reason: str
    tier: Tier | None
    attempt: int
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Swapped:
    """``tier`` as in Placed; what was waited for is visible, the rest of the swap hidden."""

    tier: Tier | None
    visible_s: float
    hidden_s: float
    fetch_s: float
    verify_s: float
    compile_s: float
    copy_s: float
    bind_s: float
    fetched_bytes: int


@dataclass(frozen=True)
class Step:
    """One step of an image is done, in a batch of so many rows."""

    image: int
    step: int
    steps: int
    batch_rows: int


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
class ImageBlocked:
    """An image is painted, and nobody may see it; ``reason`` is a word that stays the same."""

    image: int
    seed: int
    reason: str = SAFETY_CHECKER


@dataclass(frozen=True)
class ImageRestarted:
    """The chunks of an image that have come so far are void: another worker sends it from the start."""

    image: int


@dataclass(frozen=True)
class Timings:
    """Seconds, as the worker saw them."""

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


Event = (
    Queued | Accepted | Placed | Swapped | Step | Preview | Chunk | ImageDone | ImageBlocked | ImageRestarted | Finished
)
