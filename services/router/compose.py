"""Puts a router together from its settings. The only place that constructs its parts."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from looksmith.v1 import fleet_pb2_grpc as fleet_rpc
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.channel import open_channel
from services.chassis.server import RunningServer, ServedApi, grpc_server
from services.registry.client import RegistryClient
from services.router.admission import Admission
from services.router.dispatch import Dispatcher
from services.router.fleet import Fleet
from services.router.generate import Generation
from services.router.ports import Registry
from services.router.request_memory import RequestMemory
from services.router.resolutions import RememberingRegistry
from services.router.servicer import FleetServicer, ImageGenerationServicer
from services.router.sessions import Sessions
from services.router.settings import RouterSettings
from services.router.worker_connection import GrpcWorkerConnection

GENERATION = "looksmith.v1.ImageGenerationService"
FLEET = "looksmith.v1.FleetService"


@asynccontextmanager
async def router(
    settings: RouterSettings, *, registry: Registry | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[RunningServer]:
    """A serving router. ``registry`` and ``clock`` replace the real ones in tests."""
    async with AsyncExitStack() as stack:
        if registry is None:
            channel = open_channel(settings.registry, token=settings.registry_token.get_secret_value())
            registry = RegistryClient(await stack.enter_async_context(channel))
        registry = RememberingRegistry(registry=registry, clock=clock, now=_now)
        fleet = Fleet(router=settings.name, lease_s=settings.lease_s, clock=clock, now=_now)
        memory = RequestMemory(clock=clock)
        admission = Admission(registry=registry, fleet=fleet, memory=memory, default_recipe=settings.default_recipe)
        dispatcher = Dispatcher(
            router=settings.name, fleet=fleet, max_redispatches=settings.max_redispatches, clock=clock
        )
        generation = Generation(
            admission=admission, dispatcher=dispatcher, default_deadline_s=settings.default_deadline_s, clock=clock
        )
        sessions = Sessions(
            fleet=fleet,
            connect=GrpcWorkerConnection,
            router=settings.name,
            lease_s=settings.lease_s,
            heartbeat_interval_s=settings.heartbeat_interval_s,
        )
        painter = ImageGenerationServicer(generation=generation, new_request_id=lambda: uuid.uuid4().hex)
        keeper = FleetServicer(router=settings.name, fleet=fleet, sessions=sessions, generation=generation)
        apis = [
            ServedApi(GENERATION, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(painter, server)),
            ServedApi(FLEET, lambda server: fleet_rpc.add_FleetServiceServicer_to_server(keeper, server)),
        ]
        span_names = {f"/{GENERATION}/Generate": "looksmith.generate"}
        server = await stack.enter_async_context(grpc_server(settings, apis, span_names=span_names))
        stack.callback(sessions.stop)  # first of all on the way out, so that sessions don't use up the server's grace
        yield server


def _now() -> datetime:
    return datetime.now(UTC)
