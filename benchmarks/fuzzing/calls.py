"""Every RPC of every service, by its servicer or by what its servicer converts with, on any message.

The registry's run whole, on a store in memory; of router and worker those functions that see a request first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from benchmarks.fuzzing.adapter_files import FILES
from benchmarks.fuzzing.messages import message_of, messages_of
from benchmarks.fuzzing.stored import NOW, furnished, header_of, in_memory, run
from benchmarks.fuzzing.target import Target
from looksmith.errors import LooksmithError
from looksmith.v1 import fleet_pb2
from looksmith.v1 import registry_pb2 as registry_pb
from services.chassis.access import ANYONE
from services.chassis.painting_pb import request_from_pb
from services.chassis.permissions import PERMISSIONS
from services.registry.compose import apis
from services.registry.convert import header_to_pb
from services.router.convert import command_to_pb, explained_from_pb, fleet_to_pb, join_from_pb
from services.router.convert_scaler import metric_to_pb, spec_to_pb, trigger_from_pb
from services.router.convert_upkeep import evicted_from_pb, since_from_pb, warmed_from_pb
from services.router.fleet import Fleet
from services.router.keda import externalscaler_pb2  # noqa: F401  # puts its services among the descriptors
from services.router.members import Registration
from services.router.sessions import Sessions
from services.router.usage import Usage

REFUSALS = (LooksmithError, DecodeError)
#: Calls after which a registry in memory begins anew, so that what calls have put there does not pile up.
_RENEWED_EVERY = 500


class _Context:
    """Of a call whose caller gave it no deadline."""

    def time_remaining(self) -> None:
        return None


class _Handlers:
    """Stands for a server, and keeps what is added to it: handlers by the full name of their RPC."""

    def __init__(self) -> None:
        self.by_name: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same again, for releases of grpc that know no other way."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.by_name |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


class _Registry:
    """The servicers of a registry that has something to show; a new one now and again."""

    def __init__(self) -> None:
        self._left = 0
        self._handlers: dict[str, Any] = {}

    def handler(self, rpc: str) -> Any:  # noqa: ANN401  # grpc's
        if self._left == 0:
            self._left, server = _RENEWED_EVERY, _Handlers()
            for api in apis(in_memory(furnished())):
                api.add_to(cast("grpc.aio.Server", server))
            self._handlers = server.by_name
        self._left -= 1
        return self._handlers[rpc]


_REGISTRY = _Registry()


def _call(rpc: str, kind: type[Message], data: bytes) -> object:
    handler = _REGISTRY.handler(rpc)
    if handler.request_streaming:
        return run(handler.stream_unary(_one_by_one(_upload(data)), _Context()))
    request = _guarded(rpc, message_of(kind, data))
    if not handler.response_streaming:
        return run(handler.unary_unary(request, _Context()))
    return run(_first(handler.unary_stream(request, _Context())))


async def _one_by_one(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def _first(responses: Any) -> object:  # noqa: ANN401  # a generator of any message
    """A watch has no end: the first message shows that the request was read."""
    async with aclosing(responses) as coming:
        return await anext(coming, None)


def _upload(data: bytes) -> list[registry_pb.PublishAdapterRequest]:
    """Any messages; or those of a good upload with one more in between, which is where offsets go wrong."""
    messages = messages_of(registry_pb.PublishAdapterRequest, data[1:], 4)
    if data[:1] < b"\x80":
        return messages
    file = FILES[data[0] % len(FILES)]
    header = replace(header_of(file), request_id="a-request", offset=len(data) % 3 * 256)
    good = [registry_pb.PublishAdapterRequest(chunk=file[at : at + 200]) for at in range(0, len(file), 200)]
    place = len(data) % len(good)
    return [registry_pb.PublishAdapterRequest(header=header_to_pb(header)), *good[:place], *messages, *good[place:]]


class _NoWay:
    """A connection to a worker that nobody dials."""

    async def retire(self) -> None:
        pass


def _fleet() -> Fleet:
    return Fleet(router="r1", lease_s=3.0, clock=lambda: 0.0, now=lambda: NOW)


def _join(data: bytes) -> object:
    """A session from its first message to its last, and what the router then shows of the worker."""
    fleet = _fleet()

    def connect(_: Registration) -> Any:  # noqa: ANN401  # a WorkerConnection
        return _NoWay()

    sessions = Sessions(fleet=fleet, connect=connect, router="r1", lease_s=3.0, heartbeat_interval_s=1.0)
    messages = messages_of(fleet_pb2.JoinRequest, data, 5)

    async def session() -> object:
        told: list[Message] = []
        joined = (join_from_pb(message) async for message in _one_by_one(messages))
        async with aclosing(sessions.join(joined)) as commands:
            async for command in commands:
                told.append(command_to_pb(command))
                told.append(fleet_to_pb(fleet.snapshot(), "r1", now=NOW))
        return told

    return run(session())


def _usage(message: fleet_pb2.GetUsageRequest) -> object:
    return Usage(now=lambda: NOW).of(message.brand, since=since_from_pb(message))


#: What a router or a worker does first with a request, by RPC. That of Join is a session.
_FIRST: Mapping[str, Callable[[Any], object]] = {
    "/looksmith.v1.ImageGenerationService/Generate": partial(request_from_pb, new_request_id="new"),
    "/looksmith.v1.FleetService/ListWorkers": lambda _: fleet_to_pb(_fleet().snapshot(), "", now=NOW),
    "/looksmith.v1.FleetService/GetWorker": lambda message: _fleet().view(message.name),
    "/looksmith.v1.FleetService/ExplainPlacement": explained_from_pb,
    "/looksmith.v1.FleetService/WarmAdapter": warmed_from_pb,
    "/looksmith.v1.FleetService/DrainWorker": lambda message: _fleet().view(message.name),
    "/looksmith.v1.FleetService/EvictAdapter": evicted_from_pb,
    "/looksmith.v1.FleetService/ResetWorker": lambda message: _fleet().view(message.name),
    "/looksmith.v1.FleetService/GetUsage": _usage,
    "/externalscaler.ExternalScaler/IsActive": trigger_from_pb,
    "/externalscaler.ExternalScaler/StreamIsActive": trigger_from_pb,
    "/externalscaler.ExternalScaler/GetMetricSpec": lambda message: spec_to_pb(trigger_from_pb(message)),
    "/externalscaler.ExternalScaler/GetMetrics": lambda message: metric_to_pb(
        trigger_from_pb(message.scaledObjectRef).target_s
    ),
}
_JOIN = "/looksmith.v1.FleetService/Join"


def request_type(rpc: str) -> type[Message]:
    """Of an RPC's requests, by its full name as a call has it."""
    method: Any = descriptor_pool.Default().FindMethodByName(rpc[1:].replace("/", "."))
    kind: type[Message] = message_factory.GetMessageClass(method.input_type)
    return kind


def _guarded(rpc: str, message: Message) -> Message:
    """As every server does before it looks closer."""
    PERMISSIONS[rpc].check_request(ANYONE, message)
    PERMISSIONS[rpc].subject(message)
    return message


def _target(rpc: str) -> Target:
    kind = request_type(rpc)
    name = f"calls/{rpc.rpartition('.')[2].replace('/', '.')}"
    if rpc == _JOIN:
        return Target(name, _join, REFUSALS, _SEEDS, longest=1024, share=3, by_bytes=True)
    look = _FIRST.get(rpc)
    parse = partial(_first_look, rpc, kind, look) if look else partial(_call, rpc, kind)
    return Target(name, parse, REFUSALS, _SEEDS, longest=512, by_bytes=True)


def _first_look(rpc: str, kind: type[Message], look: Callable[[Any], object], data: bytes) -> object:
    return look(_guarded(rpc, message_of(kind, data)))


#: Bytes under which most fields are set, each to another of the usual values.
_SEEDS = (b"", *(bytes([0, *[0xC0 + i, i, 0, 1] * 12]) for i in range(3)), b"\xff" * 40, b"\x90")
#: An RPC of each service that there is.
TARGETS = tuple(map(_target, PERMISSIONS))
