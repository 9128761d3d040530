"""What can go wrong at a router, as typed exceptions.

LooksmithError
├── InvalidArgument
│   ├── SessionOutOfOrder      a session didn't begin with its one registration
│   └── RecipeAmbiguous        no recipe was named, and the fleet serves several
├── NotFound
│   ├── RecipeNotFound
│   └── WorkerNotFound
├── AlreadyExists
│   └── RequestIdReused
├── Aborted
│   ├── RequestSuperseded      a retry under the same id took over
│   └── WorkerReplaced         another session under the same name took over
├── DeadlineExceeded
│   └── LeaseExpired
├── Unavailable                each says when to come back
│   ├── NoWorker
│   ├── WorkerLost             the connection to it broke, or it never stood
│   ├── RegistryLost           likewise, and nothing is remembered of what it was asked
│   └── RouterStopping
└── Unimplemented
    └── NotInThisRelease
"""

from __future__ import annotations

from collections.abc import Iterable

from looksmith.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    InvalidField,
    NotFound,
    Unavailable,
    Unimplemented,
)

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


class RecipeNotFound(NotFound):
    reason = "RECIPE_NOT_FOUND"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no worker serves recipe {name!r}; they serve {', '.join(known)}", metadata={"recipe": name})


class WorkerNotFound(NotFound):
    reason = "WORKER_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"no worker {name!r} has joined this router", metadata={"worker": name})


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


class RegistryLost(Unavailable):
    reason = "REGISTRY_LOST"

    def __init__(self, details: str) -> None:
        super().__init__(f"the registry is out of reach: {details}", retry_after_s=REGISTRY_AGAIN_S)


class RouterStopping(Unavailable):
    reason = "ROUTER_STOPPING"

    def __init__(self) -> None:
        told = "this router is stopping; join another, or this one anew"
        super().__init__(told, retry_after_s=_WORKERS_REJOIN_S)


class NotInThisRelease(Unimplemented):
    reason = "NOT_IN_THIS_RELEASE"

    def __init__(self, what: str) -> None:
        super().__init__(f"this release can't {what}")
