"""A router's FleetService for other services: a worker's session, and a look at the fleet.

Speaks domain objects; raises what the router raised. Reconnecting is the session's owner's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from looksmith.channel import bearer, dial
from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.v1 import fleet_pb2 as pb
from looksmith.v1 import fleet_pb2_grpc as rpc
from services.chassis.server import CHANNEL_OPTIONS
from services.router.convert import command_from_pb, join_to_pb, worker_from_pb
from services.router.fleet import WorkerView
from services.router.members import (
    Ack,
    BookedWork,
    Command,
    Drain,
    Evict,
    Heartbeat,
    MeasuredCost,
    Prefetch,
    Registration,
    Reset,
    ResetPhase,
    Resync,
    Welcome,
    WorkerFault,
    WorkerReset,
    WorkerState,
)

__all__ = [
    "Ack",
    "BookedWork",
    "Command",
    "Drain",
    "Evict",
    "FleetClient",
    "FleetSession",
    "Heartbeat",
    "MeasuredCost",
    "Prefetch",
    "Registration",
    "Reset",
    "ResetPhase",
    "Resync",
    "Welcome",
    "WorkerFault",
    "WorkerReset",
    "WorkerState",
]

_Call = grpc.aio.StreamStreamCall[pb.JoinRequest, pb.JoinResponse]


class FleetSession:
    """A worker's open session: send heartbeats, and iterate it for the router's commands, Welcome first.

    One task may send while another iterates. Iteration ends when the router closed the session.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._messages = aiter(call)

    async def send(self, message: Registration | Heartbeat) -> None:
        """Raises LooksmithError: the session has ended, for the reason that the router gave."""
        try:
            await self._call.write(join_to_pb(message))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._how_it_ended() from None

    async def leave(self) -> None:
        """Says that this was the last word; the router then ends the session."""
        await self._call.done_writing()

    def __aiter__(self) -> FleetSession:
        return self

    async def __anext__(self) -> Command:
        """Raises LooksmithError, as ``send``."""
        try:
            while (command := command_from_pb(await anext(self._messages))) is None:
                continue
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        return command

    async def _how_it_ended(self) -> LooksmithError:
        call = self._call
        metadata = await call.initial_metadata(), await call.trailing_metadata()
        return error_from_rpc(grpc.aio.AioRpcError(await call.code(), *metadata, details=await call.details()))


class FleetClient:
    """``channel`` belongs to whoever opened it; ``connect`` opens and closes one. Every call shows ``token``."""

    def __init__(self, channel: grpc.aio.Channel, *, token: str = "") -> None:
        self._stub: rpc.FleetServiceAsyncStub = rpc.FleetServiceStub(channel)
        self._metadata = tuple(bearer(token))

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, address: str, *, token: str = "", credentials: grpc.ChannelCredentials | None = None
    ) -> AsyncIterator[FleetClient]:
        async with dial(address, credentials=credentials, options=CHANNEL_OPTIONS) as channel:
            yield cls(channel, token=token)

    @asynccontextmanager
    async def join(self, registration: Registration) -> AsyncIterator[FleetSession]:
        """A session from registration to exit, which the router sees at once.

        Raises:
            LooksmithError: the router is out of reach, or refused the registration.
        """
        call = self._stub.Join(metadata=self._metadata)
        session = FleetSession(call)
        try:
            await session.send(registration)
            yield session
        finally:
            call.cancel()

    async def list_workers(self, *, timeout_s: float = 5.0) -> tuple[WorkerView, ...]:
        """Every worker of this router, ordered by name."""
        try:
            response = await self._stub.ListWorkers(pb.ListWorkersRequest(), timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        return tuple(map(worker_from_pb, response.workers))
