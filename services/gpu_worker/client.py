"""A worker as other services see it: Generate over a channel, and a fake that keeps the same contract.

Messages stay protobuf, since a router passes most of them on unread; errors are what the worker raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import grpc

from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.errors import LooksmithError, error_from_rpc


class Worker(Protocol):
    """Paints what it is asked to. Leaving the iterator early cancels the call."""

    def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Raises LooksmithError: what the worker answered, or Unavailable if it can't be reached."""
        ...


class WorkerClient:
    """Keeps Worker over a channel, which its caller opens and closes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[pb.GenerateResponse]:
        call = self._stub.Generate(request, timeout=timeout_s, metadata=tuple((metadata or {}).items()))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        finally:
            call.cancel()  # changes nothing once the call has ended


class FakeWorker:
    """Answers at once with pictures of a few bytes; ``fails_with`` is raised in place of the next answer."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.requests: list[pb.GenerateRequest] = []
        self.fails_with: LooksmithError | None = None

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[pb.GenerateResponse]:
        del timeout_s, metadata
        self.requests.append(request)
        if self.fails_with:
            error, self.fails_with = self.fails_with, None
            raise error
        accepted = pb.Accepted(
            request_id=request.request_id, seed=request.seed, recipe=request.recipe, adapters=request.pinned.adapters
        )
        yield pb.GenerateResponse(accepted=accepted)
        yield pb.GenerateResponse(placed=pb.Placed(worker=self.name, attempt=request.pinned.attempt or 1))
        yield pb.GenerateResponse(swapped=pb.Swapped())
        for image in range(request.count or 1):
            if image in request.images_done:
                continue
            seed = (request.seed + image) % 2**64
            data = hashlib.sha256(f"{request.brand} {seed}".encode()).digest()
            shown = b"" if request.omit_image_bytes else data
            yield pb.GenerateResponse(chunk=pb.ImageChunk(image=image, data=shown))
            done = pb.ImageDone(image=image, seed=seed, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            yield pb.GenerateResponse(image_done=done)
        finished = pb.Finished(worker=self.name, engine="fake", recipe=request.recipe, attempts=1)
        yield pb.GenerateResponse(finished=finished)
