"""What workers and a router say to each other in a session, as frozen dataclasses.

Knows the words only: fleet.py keeps what was said, convert.py puts it on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from looksmith.nouns import Malformed, Tier, check_name
from services.chassis.painting import RecipeFacts


class WorkerState(StrEnum):
    """What a worker may be given: everything, nothing more, or nothing for a while."""

    READY = "ready"
    DRAINING = "draining"
    EJECTED = "ejected"
    STALLED = "stalled"
    RESETTING = "resetting"


class ResetPhase(StrEnum):
    """How far the rebuilding of a worker's engine is."""

    FINISHING = "finishing"
    REBUILDING = "rebuilding"
    DONE = "done"
    REFUSED = "refused"
    PROCESS_ENDS = "process ends"

    @property
    def over(self) -> bool:
        return self not in {ResetPhase.FINISHING, ResetPhase.REBUILDING}


@dataclass(frozen=True)
class Registration:
    """Who a worker is; fixed while its process lives. ``speed`` is its weight in consistent hashing."""

    name: str
    incarnation: str
    address: str
    recipes: tuple[RecipeFacts, ...]
    engine: str = ""
    device: str = ""
    speed: float = 1.0
    max_rows: int = 1
    version: str = ""
    host_limit_bytes: int = 0
    disk_limit_bytes: int = 0

    def __post_init__(self) -> None:
        check_name("registration.name", self.name)
        for required in ("incarnation", "address", "recipes"):
            if not getattr(self, required):
                raise Malformed(f"registration.{required}", "is required")
        for i, recipe in enumerate(self.recipes):
            if not recipe.sizes or not recipe.steps:
                raise Malformed(f"registration.recipes[{i}]", "must list sizes and steps")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise Malformed("registration.speed", f"must be over 0, not {self.speed}")


@dataclass(frozen=True)
class BookedWork:
    """What one router has under way at a worker, in GPU-seconds."""

    router: str
    gpu_seconds: float
    last_request_id: str = ""


@dataclass(frozen=True)
class MeasuredCost:
    """What painting costs on a worker: seconds a step of ``rows`` rows, and seconds an image for all the rest."""

    recipe: str
    size: tuple[int, int]
    rows: int
    step_seconds: float
    fixed_seconds: float


@dataclass(frozen=True)
class WorkerFault:
    """Something that went wrong on a worker."""

    time: datetime
    reason: str
    message: str


@dataclass(frozen=True)
class WorkerReset:
    """The rebuilding of a worker's engine, the ``number``-th of its process; ``problem`` is what went wrong."""

    number: int
    phase: ResetPhase
    seconds: float = 0.0
    jobs_dropped: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """How a worker is. ``residency`` maps digests to tiers: all of them if ``full``, else what changed.

    ``time`` is the worker's clock; None, as of what is free, where it does not tell.
    """

    sequence: int
    full: bool
    residency: Mapping[str, Tier] = field(default_factory=dict)
    queued_jobs: int = 0
    running_jobs: int = 0
    booked: tuple[BookedWork, ...] = ()
    draining: bool = False
    slots: int = 0
    slots_used: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0
    costs: tuple[MeasuredCost, ...] = ()
    last_errors: tuple[WorkerFault, ...] = ()
    stalled_s: float = 0.0
    time: datetime | None = None
    reset: WorkerReset | None = None
    disk_free_bytes: int | None = None
    memory_free_bytes: int | None = None
    waiting_for_memory: int = 0

    @property
    def resetting(self) -> bool:
        return self.reset is not None and not self.reset.phase.over

    @cached_property
    def costs_alone(self) -> Mapping[tuple[str, tuple[int, int]], MeasuredCost]:
        """By recipe and size, what was measured in the smallest batch."""
        return {(cost.recipe, cost.size): cost for cost in sorted(self.costs, key=lambda cost: -cost.rows)}


@dataclass(frozen=True)
class Welcome:
    """The session is open: it outlives its last heartbeat by ``lease_s``."""

    router: str
    lease_s: float
    heartbeat_interval_s: float


@dataclass(frozen=True)
class Ack:
    sequence: int


@dataclass(frozen=True)
class Resync:
    """A heartbeat was missed: the next one shall be full."""


@dataclass(frozen=True)
class Prefetch:
    """An adapter will be needed soon."""

    brand: str
    digest: str


@dataclass(frozen=True)
class Drain:
    reason: str


@dataclass(frozen=True)
class Evict:
    digest: str


@dataclass(frozen=True)
class Reset:
    """The worker shall build its engine anew."""

    reason: str


Command = Welcome | Ack | Resync | Prefetch | Drain | Evict | Reset
