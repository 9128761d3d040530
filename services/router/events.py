"""What happens while a request is painted, as routers see it.

A worker's own messages pass through unread but for the few facts that a router acts on; convert_events.py knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from looksmith.nouns import Tier
from services.chassis.painting import Settled


class Kind(StrEnum):
    """What a worker's message says: the names of the GenerateResponse.event oneof."""

    ACCEPTED = "accepted"
    PLACED = "placed"
    SWAPPED = "swapped"
    STEP = "step"
    PREVIEW = "preview"
    CHUNK = "chunk"
    IMAGE_DONE = "image_done"
    IMAGE_RESTARTED = "image_restarted"
    FINISHED = "finished"
    UNKNOWN = "unknown"  # of a newer worker: passed on all the same


@dataclass(frozen=True)
class WorkerEvent:
    """One message of a worker. ``message`` is opaque; ``image`` is the image it is about; 0 where it is about none."""

    kind: Kind
    message: object
    image: int = 0
    gpu_seconds: float = 0.0


@dataclass(frozen=True)
class Accepted:
    settled: Settled
    stale_since: datetime | None = None


@dataclass(frozen=True)
class Placed:
    worker: str
    reason: str
    tier: Tier | None
    attempt: int


@dataclass(frozen=True)
class ImageRestarted:
    image: int


@dataclass(frozen=True)
class Finished:
    """A worker's last message, and what the router knows better: the whole time, its own queue, the attempts."""

    event: WorkerEvent
    total_s: float
    queue_s: float
    attempts: int


Event = Accepted | Placed | ImageRestarted | WorkerEvent | Finished
