"""What can go wrong at a router, as typed exceptions.

LooksmithError
├── InvalidArgument
│   ├── SessionOutOfOrder      a session didn't begin with its one registration
│   ├── RecipeAmbiguous        no recipe was named, and the fleet serves several
│   └── UsageNotKept           usage from a time that this router does not remember
├── NotFound
│   ├── RecipeNotFound
│   └── WorkerNotFound
├── AlreadyExists
│   └── RequestIdReused
├── Aborted
│   ├── RequestSuperseded      a retry under the same id took over
│   └── WorkerReplaced         another session under the same name took over
├── DeadlineExceeded
│   ├── LeaseExpired
│   ├── ExpiredInQueue         its turn did not come in time
│   ├── NotWarmInTime          not all of an adapter's homes hold it yet
│   ├── DrainNotConfirmed      a worker was told to drain, and has not said that it does
│   └── ResetNotConfirmed      likewise, to build its engine anew
├── ResourceExhausted          each says when to come back
│   ├── DeadlineUnreachable    so much work is ahead that it would end too late
│   ├── BrandQueueFull         the brand has as many jobs waiting as it may
│   └── BrandRateLimited       the brand has used up its GPU-seconds of this minute
└── Unavailable                each says when to come back
    ├── NoWorker
    ├── WorkerLost             the connection to it broke, or it never stood
    ├── WorkerStalled          its engine does not get on
    ├── RegistryLost           likewise, and nothing is remembered of what it was asked
    └── RouterStopping
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from looksmith.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    InvalidField,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

#: Seconds: sooner than that nothing changes.
_LEAST_RETRY_S = 0.1
#: Seconds: a worker that lost this router tries again in 0.2 to 5 s, the first times within half a second.
_WORKERS_REJOIN_S = 2.0
#: Seconds: a worker whose connection broke has left the fleet by then, and others take its work over.
_WORKERS_TAKE_OVER_S = 0.5
#: Seconds for which a router that has just asked the registry in vain does not ask again, and a channel waits at most
#: before it dials anew (services.chassis.channel).
REGISTRY_AGAIN_S = 1.0


class SessionOutOfOrder(InvalidArgument):
    reason = "SESSION_OUT_OF_ORDER"


class RecipeAmbiguous(InvalidField):
    reason = "RECIPE_AMBIGUOUS"

    def __init__(self, known: Iterable[str]) -> None:
        super().__init__("recipe", f"is required: this fleet serves {', '.join(known)}")


class UsageNotKept(InvalidField):
    reason = "USAGE_NOT_KEPT"

    def __init__(self, started: datetime, kept_since: datetime) -> None:
        from_start = f"this router started at {started.isoformat(timespec='seconds')}"
        by_minute = f"and tells minutes apart since {kept_since.isoformat(timespec='seconds')}"
        super().__init__("since", f"is too long ago: {from_start} {by_minute}; unset is since its start")


class RecipeNotFound(NotFound):
    reason = "RECIPE_NOT_FOUND"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no worker serves recipe {name!r}; they serve {', '.join(known)}", metadata={"recipe": name})


class WorkerNotFound(NotFound):
    reason = "WORKER_NOT_FOUND"

    def __init__(self, name: str) -> None:
        known_as = name[:80]  # callers write it
        super().__init__(f"no worker {known_as!r} has joined this router", metadata={"worker": known_as})


class RequestIdReused(AlreadyExists):
    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} stood for other content less than ten minutes ago; choose another",
            metadata={"request_id": request_id},
        )


class RequestSuperseded(Aborted):
    reason = "REQUEST_SUPERSEDED"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"a retry of request {request_id!r} took over", metadata={"request_id": request_id})


class WorkerReplaced(Aborted):
    reason = "WORKER_REPLACED"

    def __init__(self, name: str) -> None:
        super().__init__(f"another session joined as worker {name!r}", metadata={"worker": name})


class LeaseExpired(DeadlineExceeded):
    reason = "LEASE_EXPIRED"

    def __init__(self, name: str, lease_s: float) -> None:
        super().__init__(f"nothing came from worker {name!r} for {lease_s:g} s", metadata={"worker": name})


class NotWarmInTime(DeadlineExceeded):
    reason = "NOT_WARM_IN_TIME"

    def __init__(self, adapter: str, lacking: Iterable[str]) -> None:
        names = ", ".join(lacking)
        super().__init__(f"{adapter} is not in the memory of {names} yet; they go on", metadata={"workers": names})


class DrainNotConfirmed(DeadlineExceeded):
    reason = "DRAIN_NOT_CONFIRMED"

    def __init__(self, name: str) -> None:
        super().__init__(f"worker {name!r} was told, and has not said yet that it drains", metadata={"worker": name})


class ResetNotConfirmed(DeadlineExceeded):
    reason = "RESET_NOT_CONFIRMED"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"worker {name!r} was told, and has not said yet that it builds its engine anew; one of an older release "
            "can't: drain it and start its process anew",
            metadata={"worker": name},
        )


class ExpiredInQueue(DeadlineExceeded):
    reason = "EXPIRED_IN_QUEUE"

    def __init__(self, waited_s: float) -> None:
        super().__init__(f"the deadline passed before a worker could begin; it waited {waited_s:.1f} s")


class DeadlineUnreachable(ResourceExhausted):
    reason = "DEADLINE_UNREACHABLE"

    def __init__(self, expected_s: float, left_s: float) -> None:
        super().__init__(
            f"it would take about {expected_s:.1f} s with the work ahead of it, and has {max(left_s, 0):.1f} s",
            retry_after_s=max(_LEAST_RETRY_S, expected_s - left_s),
        )


class BrandQueueFull(ResourceExhausted):
    reason = "BRAND_QUEUE_FULL"

    def __init__(self, brand: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"brand {brand} has {limit} jobs waiting, as many as it may",
            metadata={"brand": brand},
            retry_after_s=max(_LEAST_RETRY_S, retry_after_s),
        )


class BrandRateLimited(ResourceExhausted):
    reason = "BRAND_RATE_LIMIT"

    def __init__(self, brand: str, per_minute: float, retry_after_s: float) -> None:
        super().__init__(
            f"brand {brand} has used its {per_minute:g} GPU-seconds a minute",
            metadata={"brand": brand},
            retry_after_s=max(_LEAST_RETRY_S, retry_after_s),
        )


class NoWorker(Unavailable):
    reason = "NO_WORKER"

    def __init__(self, why: str) -> None:
        super().__init__(why, retry_after_s=_WORKERS_REJOIN_S)


class WorkerLost(Unavailable):
    reason = "WORKER_LOST"

    def __init__(self, name: str, details: str) -> None:
        super().__init__(
            f"worker {name!r} was lost: {details}", metadata={"worker": name}, retry_after_s=_WORKERS_TAKE_OVER_S
        )


class WorkerStalled(Unavailable):
    reason = "WORKER_STALLED"

    def __init__(self, name: str, stalled_s: float) -> None:
        super().__init__(
            f"worker {name!r} does not get on: its engine has been at one step for {stalled_s:.0f} s",
            metadata={"worker": name},
            retry_after_s=_WORKERS_TAKE_OVER_S,
        )


class RegistryLost(Unavailable):
    reason = "REGISTRY_LOST"

    def __init__(self, details: str) -> None:
        super().__init__(f"the registry is out of reach: {details}", retry_after_s=REGISTRY_AGAIN_S)


class RouterStopping(Unavailable):
    reason = "ROUTER_STOPPING"

    def __init__(self) -> None:
        told = "this router is stopping; join another, or this one anew"
        super().__init__(told, retry_after_s=_WORKERS_REJOIN_S)
