"""One request as its caller sees it: when it was accepted, when its images were there, and how it ended.

Asks once and never again; whether an end is good or bad is for others to say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import grpc

from looksmith.errors import error_from_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

OK = "OK"


@dataclass
class Outcome:
    """What became of a request; times by ``time.monotonic``, which processes of one machine share."""

    brand: str
    asked_at: float
    ended_at: float = 0.0
    code: str = ""
    reason: str = ""
    retry_after_s: float | None = None
    accepted_at: float | None = None
    stale: bool = False
    queued: int = 0  # messages
    placed: list[str] = field(default_factory=list)  # workers
    images_at: list[float] = field(default_factory=list)
    gpu_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended_at - self.asked_at

    @property
    def ok(self) -> bool:
        return self.code == OK

    @property
    def refused(self) -> bool:
        """Turned away, at once or after a wait: it was never accepted."""
        return not self.ok and self.accepted_at is None


async def ask(
    stub: rpc.ImageGenerationServiceAsyncStub, request: pb.GenerateRequest, *, timeout_s: float | None = None
) -> Outcome:
    outcome = Outcome(request.brand, time.monotonic())
    try:
        async for response in stub.Generate(request, timeout=timeout_s):
            _note(outcome, response)
        outcome.code = OK
    except grpc.aio.AioRpcError as error:
        outcome.code, problem = error.code().name, error_from_rpc(error)
        outcome.reason, outcome.retry_after_s = problem.reason, problem.retry_after_s
    outcome.ended_at = time.monotonic()
    return outcome


def _note(outcome: Outcome, response: pb.GenerateResponse) -> None:
    match response.WhichOneof("event"):
        case "queued":
            outcome.queued += 1
        case "accepted":
            outcome.accepted_at = time.monotonic()
            outcome.stale = response.accepted.HasField("stale_since")
        case "placed":
            outcome.placed.append(response.placed.worker)
        case "image_done":
            outcome.images_at.append(time.monotonic())
        case "finished":
            outcome.gpu_seconds = response.finished.gpu_seconds
