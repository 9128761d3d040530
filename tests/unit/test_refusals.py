"""Refusals that pass by themselves, of routers and workers: each tells its caller when to come back."""

from collections.abc import Iterator

import pytest
from google.rpc import error_details_pb2

import services.gpu_worker.compose
import services.router.compose  # noqa: F401  # the two load every module that may define an error
from looksmith.errors import LooksmithError, ResourceExhausted, Unavailable, error_to_status
from services.gpu_worker import errors as of_workers
from services.router import errors as of_routers

PASSING: list[LooksmithError] = [
    of_routers.BrandQueueFull("acme", 10, retry_after_s=1.5),
    of_routers.BrandRateLimited("acme", 60, retry_after_s=0),
    of_routers.DeadlineUnreachable(5.0, 3.0),
    of_routers.NoWorker("no worker has joined this router"),
    of_routers.RegistryLost("connection refused"),
    of_routers.RouterStopping(),
    of_routers.WorkerLost("w1", "connection reset"),
    of_routers.WorkerStalled("w1", 12.0),
    of_workers.DiskCacheFull("a" * 64, 100),
    of_workers.DiskFull("a" * 64, "No space left on device"),
    of_workers.RegistryLost("connection refused"),
    of_workers.WorkerDraining("w1"),
    of_workers.WorkerFull(64, retry_after_s=2.5),
    of_workers.WorkerResetting(),
]


def below(kind: type[LooksmithError]) -> Iterator[type[LooksmithError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_every_such_class_is_among_those_tried_here() -> None:
    kinds = {*below(Unavailable), *below(ResourceExhausted)}
    ours = {kind for kind in kinds if kind.__module__.startswith(("services.router.", "services.gpu_worker."))}
    assert ours == {type(error) for error in PASSING}


@pytest.mark.parametrize("error", PASSING, ids=lambda error: f"{type(error).__module__}.{type(error).__name__}")
def test_refusal_that_passes_says_when_to_come_back(error: LooksmithError) -> None:
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in error_to_status(error).details)
    assert 0.1 <= retry.retry_delay.ToNanoseconds() / 1e9 <= 5
