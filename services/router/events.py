"""A worker's messages as a router sees them: passed on unread but for the few facts that it acts on.

convert_events.py makes them; what a router says itself is in services.chassis.painting_events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.chassis.painting_events import Accepted, ImageRestarted, Placed, Queued


class Kind(StrEnum):
    """What a worker's message says: the names of the GenerateResponse.event oneof."""

    ACCEPTED = "accepted"
    PLACED = "placed"
    SWAPPED = "swapped"
    STEP = "step"
    PREVIEW = "preview"
    CHUNK = "chunk"
    IMAGE_DONE = "image_done"
    IMAGE_BLOCKED = "image_blocked"
    IMAGE_RESTARTED = "image_restarted"
    FINISHED = "finished"
    QUEUED = "queued"
    UNKNOWN = "unknown"  # of a newer worker: passed on all the same


@dataclass(frozen=True)
class WorkerEvent:
    """One message of a worker. ``message`` is opaque; ``image`` is the image it is about; 0 where it is about none.

    ``reason`` is why the image was blocked.
    """

    kind: Kind
    message: object
    image: int = 0
    gpu_seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class LastEvent:
    """The last worker's last message, and what the router knows better: the whole time, its own queue, and sums."""

    event: WorkerEvent
    total_s: float
    queue_s: float
    attempts: int
    gpu_seconds: float


RouterEvent = Queued | Accepted | Placed | ImageRestarted | WorkerEvent | LastEvent
