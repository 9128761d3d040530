"""What a router counts. Brand is a label of images and GPU-seconds only; prompts are a label of nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from opentelemetry import metrics

from looksmith.errors import Internal, LooksmithError

meter = metrics.get_meter(__name__)

requests = meter.create_counter("looksmith_requests", description="Requests that ended, by outcome and reason.")
end_to_end = meter.create_histogram(
    "looksmith_request", unit="s", description="From a request's arrival to its last message, by outcome."
)
queued = meter.create_histogram("looksmith_queue", unit="s", description="From admission to the first placement.")
attempts = meter.create_counter("looksmith_attempts", description="Attempts at workers that ended, by outcome.")
images = meter.create_counter("looksmith_images", description="Images delivered, by brand.")
images_blocked = meter.create_counter(
    "looksmith_images_blocked", description="Images painted and withheld, by recipe and reason."
)
gpu_seconds = meter.create_counter("looksmith_gpu", unit="s", description="GPU-seconds charged, by brand.")


@contextmanager
def request_counted() -> Iterator[None]:
    """Counts the request that runs inside by how it ends, and takes its time."""
    started = time.perf_counter()
    outcome, reason = grpc.StatusCode.OK, ""
    try:
        yield
    except LooksmithError as error:
        outcome, reason = error.code, error.reason
        raise
    except (asyncio.CancelledError, GeneratorExit):
        outcome = grpc.StatusCode.CANCELLED  # by the caller or its deadline
        raise
    except BaseException:
        outcome, reason = Internal.code, Internal.reason
        raise
    finally:
        requests.add(1, {"outcome": outcome.name, "reason": reason})
        end_to_end.record(time.perf_counter() - started, {"outcome": outcome.name})
