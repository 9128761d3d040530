"""Builds a gRPC server with health, reflection and channelz, and opens and closes it. Knows no service.

How it may be reached is security.py's business, who may call what guard.py's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog
from google.rpc import error_details_pb2  # noqa: F401  # lets reflection describe the details of errors
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.chassis.guard import allowed, audited, bounded, who_calls
from services.chassis.interceptors import Layer, LayeredInterceptor, answering, logging, tracing
from services.chassis.process import CannotStart
from services.chassis.security import check_exposure, dialling, server_credentials
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
#: Of one connection; more wait at the caller. Metadata: gRPC's own bounds, spelled out, since a release may move them;
#: between the two it refuses more the nearer it comes to the second.
SERVER_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
)


@dataclass(frozen=True)
class ServedApi:
    """One gRPC service of this process: its full name and how its servicer is added to a server."""

    name: str
    add_to: Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class RunningServer:
    """A started server. ``health`` answers for "" and for every api, on ``health_port`` too where there is one."""

    address: str
    port: int
    health: health.aio.HealthServicer
    health_port: int | None = None


def check_settings(settings: ServiceSettings) -> None:
    """For who has slow work to do before it serves.

    Raises:
        CannotStart: these settings can't be served with, or dialled with.
    """
    check_exposure(settings)
    server_credentials(settings)
    who_calls(settings)
    dialling(settings)


def _options(settings: ServiceSettings) -> Sequence[tuple[str, int]]:
    if not settings.max_connection_age_s:
        return SERVER_OPTIONS
    return *SERVER_OPTIONS, ("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000))


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
        settings: where to listen, and with what certificate.
        apis: what to serve.
        span_names: better names for the spans of some methods.
        layers: what else happens around every call, innermost; what they raise is answered like all else.
        quiet: methods that are called so often that a line in the log costs as much as the answer; those that go well
            get theirs at the level "debug".

    Raises:
        CannotStart: an address can't be listened on, must not be with these settings, or a file can't be used.
    """
    check_exposure(settings)
    credentials, who = server_credentials(settings), who_calls(settings)
    if who is None:
        log.warning("server.open", reason="neither tokens nor client certificates: who reaches the port may do all")
    server = grpc.aio.server(
        interceptors=[
            LayeredInterceptor(
                tracing(span_names or {}),
                logging(quiet),
                audited,
                answering,
                allowed(who),
                bounded(settings.max_calls_per_caller),
                *layers,
            )
        ],
        options=_options(settings),
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
    port = _listen(server, settings.host, settings.port, credentials)
    async with AsyncExitStack() as stack:
        health_port = None
        if settings.health_port is not None:
            health_port = await stack.enter_async_context(_health_alone(settings.host, settings.health_port, checks))
        await server.start()
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        address = f"{settings.host}:{port}"
        log.info("server.listening", address=address, apis=names, tls=credentials is not None)
        try:
            yield RunningServer(address, port, checks, health_port)
        finally:
            await checks.enter_graceful_shutdown()
            await server.stop(settings.shutdown_grace_s)
            log.info("server.stopped", address=address)


@asynccontextmanager
async def _health_alone(host: str, port: int, checks: health.aio.HealthServicer) -> AsyncIterator[int]:
    """A plaintext server that answers for the health of another one, to the very end of it; yields its port."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    found = _listen(server, host, port, None)
    await server.start()
    log.info("health.listening", address=f"{host}:{found}")
    try:
        yield found
    finally:
        await server.stop(None)


def _listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Raises: CannotStart, if the address can't be listened on."""
    address = f"{host}:{port}"
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotStart(f"can't listen on {address}: {error}") from error
