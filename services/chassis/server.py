"""Builds a gRPC server with health, reflection and channelz, and opens and closes it. Knows no service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog
from google.rpc import error_details_pb2  # noqa: F401  # lets reflection describe the details of errors
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.chassis.interceptors import Layer, LayeredInterceptor, answering, logging, tracing
from services.chassis.process import CannotStart
from services.chassis.settings import ServiceSettings

log = structlog.get_logger()

#: Largest message either way: a chunk of an upload (1 MiB) with room for the rest.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

#: A stopped peer is found within 2 s. The ping timeout is what does it, keepalive alone takes the whole deadline;
#: without the last two lines a server answers such pings with GOAWAY "too many pings" (both measured on grpcio 1.85).
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)
CHANNEL_OPTIONS = (
    *KEEPALIVE,
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


@dataclass(frozen=True)
class ServedApi:
    """One gRPC service of this process: its full name and how its servicer is added to a server."""

    name: str
    add_to: Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class RunningServer:
    """A started server. ``health`` answers for "" and for every api."""

    address: str
    port: int
    health: health.aio.HealthServicer


@asynccontextmanager
async def grpc_server(
    settings: ServiceSettings,
    apis: list[ServedApi],
    *,
    span_names: Mapping[str, str] | None = None,
    layers: Sequence[Layer] = (),
    quiet: Collection[str] = (),
) -> AsyncIterator[RunningServer]:
    """A server that listens from entry to exit. On exit health turns NOT_SERVING, running calls get their grace.

    Args:
        settings: where to listen.
        apis: what to serve.
        span_names: better names for the spans of some methods.
        layers: what else happens around every call, innermost; what they raise is answered like all else.
        quiet: methods that are called so often that a line in the log costs as much as the answer; those that go well
            get theirs at the level "debug".

    Raises:
        CannotStart: the address can't be listened on.
    """
    server = grpc.aio.server(
        interceptors=[LayeredInterceptor(tracing(span_names or {}), logging(quiet), answering, *layers)],
        options=CHANNEL_OPTIONS,
    )
    for api in apis:
        api.add_to(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    channelz.add_channelz_servicer(server)
    names = [api.name for api in apis]
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, "grpc.channelz.v1.Channelz", reflection.SERVICE_NAME], server
    )
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError as error:
        raise CannotStart(f"can't listen on {settings.host}:{settings.port}: {error}") from error
    await server.start()
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    address = f"{settings.host}:{port}"
    log.info("server.listening", address=address, apis=names)
    try:
        yield RunningServer(address, port, checks)
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(settings.shutdown_grace_s)
        log.info("server.stopped", address=address)
