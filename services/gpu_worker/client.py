"""A worker as other services see it: Generate over a channel.

Messages stay protobuf, since a router passes most of them on unread; errors are what the worker raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc

from looksmith.errors import error_from_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc


class WorkerCall:
    """One request at a worker: iterate it for its messages, one at a time, none read ahead.

    Iterating raises LooksmithError: what the worker answered, or Unavailable if it can't be reached.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]) -> None:
        self._call = call
        self._messages = aiter(call)

    def cancel(self) -> None:
        """Makes the worker stop; iterating then raises asyncio.CancelledError. Does nothing to a call that ended."""
        self._call.cancel()

    def __aiter__(self) -> WorkerCall:
        return self

    async def __anext__(self) -> pb.GenerateResponse:
        try:
            return await anext(self._messages)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None


class WorkerClient:
    """``channel`` belongs to whoever opened it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)

    @asynccontextmanager
    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[WorkerCall]:
        """Opens a call and leaves it on exit, cancelled if it still runs."""
        call = self._stub.Generate(request, timeout=timeout_s, metadata=tuple((metadata or {}).items()))
        try:
            yield WorkerCall(call)
        finally:
            call.cancel()
