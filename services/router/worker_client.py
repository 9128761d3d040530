"""The way to one worker: a channel, and Generate calls whose messages pass through unread.

Knows protobuf and gRPC; knows nothing of placement or failover.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc

from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.errors import Unavailable, error_from_rpc
from services.chassis.painting import Pinned, Settled
from services.chassis.server import CHANNEL_OPTIONS
from services.router.convert_events import settled_to_pb, worker_event_from_pb
from services.router.errors import WorkerLost
from services.router.events import WorkerEvent
from services.router.members import Registration

_OPTIONS = (
    *CHANNEL_OPTIONS,
    # A worker that comes back at its old address is dialled at once, not after the back-off that its death began.
    ("grpc.use_local_subchannel_pool", 1),
    # A stalled caller must stop its worker soon. The window that gRPC probes for took in up to 30 MB (grpcio 1.85);
    # 1 MiB is as fast on loopback, and fills 1 GB/s at a millisecond's distance.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)


class GrpcWorkerConnection:
    """A WorkerConnection over gRPC."""

    def __init__(self, registration: Registration) -> None:
        self._name = registration.name
        self._channel = grpc.aio.insecure_channel(registration.address, options=_OPTIONS)
        self._stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(self._channel)
        self._running = 0
        self._retired = False

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[GrpcWorkerCall]:
        self._running += 1
        call = self._stub.Generate(settled_to_pb(settled, pinned), timeout=timeout_s, metadata=tuple(metadata.items()))
        try:
            yield GrpcWorkerCall(self._name, call)
        finally:
            call.cancel()
            self._running -= 1
            await self._close_when_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_when_unused()

    async def _close_when_unused(self) -> None:
        if self._retired and not self._running:
            await self._channel.close()


class GrpcWorkerCall:
    """A WorkerCall over gRPC."""

    def __init__(self, worker: str, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]) -> None:
        self._worker = worker
        self._call = call
        self._messages = aiter(call)

    def cancel(self) -> None:
        self._call.cancel()

    def __aiter__(self) -> GrpcWorkerCall:
        return self

    async def __anext__(self) -> WorkerEvent:
        try:
            return worker_event_from_pb(await anext(self._messages))
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            if isinstance(error, Unavailable) and error.reason == Unavailable.reason:  # said by gRPC, not by the worker
                raise WorkerLost(self._worker, error.message) from None
            raise error from None
