"""What a worker refuses, one class a reason. Knows nothing about how it is noticed.

NotFound            RecipeNotServed, BrandGone
ResourceExhausted   WorkerFull, DiskCacheFull, DiskFull
Unavailable         WorkerDraining, WorkerResetting, RegistryLost
FailedPrecondition  AdapterUnusable
DataLoss            DigestMismatch
AlreadyExists       RequestIdReused
Aborted             Superseded
InvalidField        PromptTooLong
"""

from __future__ import annotations

from looksmith.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidField,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

#: Seconds that a job takes, more or less: then one that uses an adapter has ended, or another worker has joined.
_JOB_S = 1.0
#: Seconds that a channel waits at most before it dials a registry anew (services.chassis.channel).
_REDIAL_S = 1.0


class RecipeNotServed(NotFound):
    reason = "RECIPE_NOT_FOUND"

    def __init__(self, recipe: str, served: list[str]) -> None:
        super().__init__(
            f"recipe {recipe!r} is not served here; this worker serves {', '.join(sorted(served))}",
            metadata={"recipe": recipe},
        )


class BrandGone(NotFound):
    reason = "BRAND_NOT_FOUND"

    def __init__(self, brand: str) -> None:
        super().__init__(f"brand {brand!r} was erased", metadata={"brand": brand})


class WorkerFull(ResourceExhausted):
    reason = "WORKER_FULL"

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} jobs are waiting already", retry_after_s=retry_after_s)


class WorkerDraining(Unavailable):
    reason = "WORKER_DRAINING"

    def __init__(self, worker: str) -> None:
        super().__init__(f"worker {worker} finishes its jobs and takes no more", retry_after_s=_JOB_S)


class WorkerResetting(Unavailable):
    reason = "WORKER_RESETTING"

    def __init__(self) -> None:
        super().__init__("this worker builds its engine anew and takes no jobs meanwhile", retry_after_s=_JOB_S)


class RegistryLost(Unavailable):
    """An adapter that is not here can't be fetched; what is here is painted."""

    reason = "REGISTRY_LOST"

    def __init__(self, details: str) -> None:
        super().__init__(f"the registry is out of reach of this worker: {details}", retry_after_s=_REDIAL_S)


class DiskCacheFull(ResourceExhausted):
    reason = "DISK_CACHE_FULL"

    def __init__(self, digest: str, limit: int) -> None:
        super().__init__(
            f"adapter {digest[:12]} does not fit beside those in use into {limit} bytes of disk cache",
            retry_after_s=_JOB_S,
        )


class DiskFull(ResourceExhausted):
    """The disk itself, whatever the worker may use of it."""

    reason = "DISK_FULL"

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(
            f"adapter {digest[:12]} can't be written to this worker's disk: {problem}", retry_after_s=_JOB_S
        )


class AdapterUnusable(FailedPrecondition):
    reason = "ADAPTER_UNUSABLE"

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"adapter {digest[:12]} can't be used: {problem}", metadata={"digest": digest})


class DigestMismatch(DataLoss):
    reason = "DIGEST_MISMATCH"

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(
            f"the bytes that came for adapter {digest[:12]} have the digest {found[:12]}",
            metadata={"digest": digest, "found": found},
        )


class RequestIdReused(AlreadyExists):
    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request_id {request_id!r} stands for a request of other content that is being painted")


class Superseded(Aborted):
    reason = "SUPERSEDED"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"a retry of request_id {request_id!r} has taken over")


class PromptTooLong(InvalidField):
    def __init__(self, beyond: str) -> None:
        told = f"the text encoder would not see its end: {beyond[:200]!r}; shorten it, or set allow_truncation"
        super().__init__("prompt", told, reason="PROMPT_TOO_LONG")
