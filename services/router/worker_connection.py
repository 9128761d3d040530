"""The router's way to one worker: a channel that lives as long as it is used, and messages that pass through unread.

Knows nothing of placement or failover; calls are services.gpu_worker.client's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc

from looksmith.channel import bearer, dial
from looksmith.errors import Unavailable
from services.chassis.painting import Pinned, Settled
from services.chassis.painting_pb import settled_to_pb
from services.chassis.server import CHANNEL_OPTIONS
from services.gpu_worker.client import WorkerCall, WorkerClient
from services.router.convert_events import worker_event_from_pb
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
    """A WorkerConnection over gRPC; the worker is shown ``token``, and dialled by TLS with ``credentials``."""

    def __init__(
        self, registration: Registration, *, token: str = "", credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._name = registration.name
        self._shown = dict(bearer(token))
        self._channel = dial(registration.address, credentials=credentials, options=_OPTIONS)
        self._client = WorkerClient(self._channel)
        self._running = 0
        self._retired = False

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[RelayedCall]:
        if self._retired:  # the caller was told of the worker in between, and took its time
            raise WorkerLost(self._name, "it has just left")
        self._running += 1
        try:
            request, shown = settled_to_pb(settled, pinned), {**metadata, **self._shown}
            async with self._client.generate(request, timeout_s=timeout_s, metadata=shown) as call:
                yield RelayedCall(self._name, call)
        finally:
            self._running -= 1
            await self._close_when_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_when_unused()

    async def _close_when_unused(self) -> None:
        if self._retired and not self._running:
            await self._channel.close()


class RelayedCall:
    """A WorkerCall of ports.py: the worker's messages as events."""

    def __init__(self, worker: str, call: WorkerCall) -> None:
        self._worker = worker
        self._call = call

    def cancel(self) -> None:
        self._call.cancel()

    def __aiter__(self) -> RelayedCall:
        return self

    async def __anext__(self) -> WorkerEvent:
        try:
            return worker_event_from_pb(await anext(self._call))
        except Unavailable as error:
            if error.reason == Unavailable.reason:  # said by gRPC, not by the worker
                raise WorkerLost(self._worker, error.message) from None
            raise
