"""Whether workers are wanted, and how much work there is for them, in the terms of KEDA's external scaler.

Decides by a Backlog and the metadata of KEDA's trigger; starts no worker, and leaves gRPC to the servicer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from looksmith.errors import InvalidField
from services.router.fleet import FleetSnapshot
from services.router.placement import Job, unmeasured_seconds

METRIC = "looksmith-gpu-seconds"
#: GPU-seconds that one worker should have before another is wanted, unless the trigger says otherwise: who comes last
#: then waits for half a minute, of about three that people wait.
TARGET_S = 30.0
#: Seconds between looks of a stream; KEDA must hear of a change within half a second.
LOOK_EVERY_S = 0.25
#: GPU-seconds that a request counts for of which nobody knows yet what it costs: a picture in four steps.
UNKNOWN_REQUEST_S = 1.0


@dataclass(frozen=True)
class Work:
    """Work at one moment: GPU-seconds in line, GPU-seconds that workers have been given, requests without a worker."""

    queued_gpu_seconds: float = 0.0
    in_flight_gpu_seconds: float = 0.0
    requests_without_worker: int = 0

    @property
    def gpu_seconds(self) -> float:
        """What KEDA scales by. What is in flight counts, so that workers are wanted while they paint."""
        return self.queued_gpu_seconds + self.in_flight_gpu_seconds

    @property
    def is_there(self) -> bool:
        return self.gpu_seconds > 0 or self.requests_without_worker > 0


class Backlog(Protocol):
    """What there is to do."""

    def work(self, recipe: str) -> Work:
        """Work of one recipe, by name; of all where it is empty."""


@dataclass(frozen=True)
class Trigger:
    """What the trigger of a ScaledObject asks for. ``recipe`` is empty for all work."""

    target_s: float = TARGET_S
    recipe: str = ""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Trigger:
        """Reads ``targetSeconds`` and ``recipe``; other keys are KEDA's own.

        Raises:
            InvalidField: targetSeconds is no number over 0.
        """
        recipe, text = metadata.get("recipe", ""), metadata.get("targetSeconds", "")
        if not text:
            return cls(recipe=recipe)
        try:
            target_s = float(text)
        except ValueError:
            target_s = math.nan
        if not (math.isfinite(target_s) and target_s > 0):
            raise InvalidField("scalerMetadata.targetSeconds", f"must be a number over 0, not {text[:80]!r}")
        return cls(target_s, recipe)


class Scaler:
    """Answers KEDA. It wants as many workers as the metric is times the target, rounded up."""

    def __init__(self, *, backlog: Backlog, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._backlog, self._sleep = backlog, sleep
        self._stopping = False

    def stop(self) -> None:
        """Ends all streams at their next look."""
        self._stopping = True

    def is_active(self, trigger: Trigger) -> bool:
        return self._backlog.work(trigger.recipe).is_there

    async def activity(self, trigger: Trigger) -> AsyncGenerator[bool, None]:
        """Whether there is work: now, and then after every change, until the scaler is stopped."""
        told: bool | None = None
        while not self._stopping:
            if (active := self.is_active(trigger)) is not told:
                told = active
                yield active
            await self._sleep(LOOK_EVERY_S)

    def metric(self, name: str, trigger: Trigger) -> float:
        """GPU-seconds of work, queued and in flight.

        Raises:
            InvalidField: there is no other metric.
        """
        if name != METRIC:
            raise InvalidField("metricName", f"must be {METRIC!r}, not {name[:80]!r}")
        return self._backlog.work(trigger.recipe).gpu_seconds


class FleetBacklog:
    """Keeps Backlog over what is booked on the workers, by all routers, and what waits here without a worker.

    Which recipe another router's work is of is not known here: all work counts of workers that serve the recipe.

    Args:
        fleet: the newest snapshot.
        unplaced: jobs in the queue that no worker can take.
        callers: how many requests wait, before anything is known of them, as there is no worker at all.
    """

    def __init__(
        self,
        *,
        fleet: Callable[[], FleetSnapshot],
        unplaced: Callable[[], Iterable[Job]],
        callers: Callable[[], int],
    ) -> None:
        self._fleet, self._unplaced, self._callers = fleet, unplaced, callers

    def work(self, recipe: str) -> Work:
        queued = in_flight = 0.0
        for view in self._fleet().workers:
            if not recipe or any(served.name == recipe for served in view.registration.recipes):
                waiting = sum(waits.gpu_seconds for waits in view.waiting.values())
                queued += waiting
                in_flight += max(view.booked - waiting, 0.0)  # sums of floats drift
        jobs = [job for job in self._unplaced() if recipe in {"", job.recipe.name}]
        callers = self._callers()
        queued += sum(map(unmeasured_seconds, jobs)) + callers * UNKNOWN_REQUEST_S
        return Work(queued, in_flight, len(jobs) + callers)
