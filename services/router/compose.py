"""Puts a router together from its settings. The only place that constructs its parts."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from looksmith.v1 import fleet_pb2_grpc as fleet_rpc
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.channel import open_channel
from services.chassis.security import dialling
from services.chassis.server import RunningServer, ServedApi, grpc_server
from services.registry.client import RegistryClient
from services.router.admission import Admission, Share
from services.router.demand import Demand
from services.router.dispatch import Dispatcher
from services.router.fleet import Fleet
from services.router.generate import Generation
from services.router.handover import Handover
from services.router.keda import externalscaler_pb2_grpc as keda_rpc
from services.router.ports import Registry
from services.router.rate_limits import RateLimits
from services.router.request_memory import RequestMemory
from services.router.request_records import RequestRecords
from services.router.resolutions import RememberingRegistry
from services.router.retry_budget import RetryBudget
from services.router.scaler import FleetBacklog, Scaler
from services.router.scheduler import Scheduler
from services.router.servicer import ExternalScalerServicer, FleetServicer, ImageGenerationServicer
from services.router.sessions import Sessions
from services.router.settings import RouterSettings
from services.router.upkeep import Upkeep
from services.router.usage import Usage
from services.router.waiting_room import WaitingRoom
from services.router.warmth import Warmth
from services.router.watchdog import Watchdog
from services.router.worker_connection import GrpcWorkerConnection

GENERATION = "looksmith.v1.ImageGenerationService"
FLEET = "looksmith.v1.FleetService"
SCALER = "externalscaler.ExternalScaler"


@asynccontextmanager
async def router(
    settings: RouterSettings, *, registry: Registry | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[RunningServer]:
    """A serving router. ``registry`` and ``clock`` replace the real ones in tests."""
    async with AsyncExitStack() as stack:
        credentials = dialling(settings)
        if registry is None:
            token = settings.registry_token.get_secret_value()
            channel = open_channel(settings.registry, token=token, credentials=credentials)
            registry = RegistryClient(await stack.enter_async_context(channel))
        registry = RememberingRegistry(registry=registry, clock=clock, now=_now)
        fleet = Fleet(router=settings.name, lease_s=settings.lease_s, clock=clock, now=_now)
        memory = RequestMemory(clock=clock)
        fleet.watch(Handover(fleet=fleet, recent=memory.recent).on_change)
        usage, records = Usage(now=_now), RequestRecords(now=_now, clock=clock)
        admission = Admission(
            registry=registry,
            fleet=fleet,
            memory=memory,
            default_recipe=settings.default_recipe,
            share=Share(
                max_queued_jobs=settings.brand_max_queued_jobs,
                gpu_seconds_per_minute=settings.brand_gpu_seconds_per_minute,
            ),
        )
        scheduler = Scheduler(
            fleet=fleet,
            demand=Demand(),
            warmth=Warmth(fleet=fleet, clock=clock),
            clock=clock,
            worker_wait_s=settings.worker_wait_s,
        )
        waiting_room = WaitingRoom(fleet=fleet, worker_wait_s=settings.worker_wait_s, clock=clock)
        watchdog = Watchdog(fleet=fleet, lease_s=settings.lease_s, clock=clock)
        dispatcher = Dispatcher(
            router=settings.name,
            fleet=fleet,
            scheduler=scheduler,
            watchdog=watchdog,
            budget=RetryBudget(),
            limits=RateLimits(clock=clock),
            usage=usage,
            max_redispatches=settings.max_redispatches,
            clock=clock,
        )
        generation = Generation(
            admission=admission,
            dispatcher=dispatcher,
            waiting_room=waiting_room,
            records=records,
            default_deadline_s=settings.default_deadline_s,
            clock=clock,
        )
        await stack.enter_async_context(watchdog.running(also=scheduler.tick))
        sessions = Sessions(
            fleet=fleet,
            connect=lambda registration: GrpcWorkerConnection(
                registration, token=settings.worker_token.get_secret_value(), credentials=credentials and credentials()
            ),
            router=settings.name,
            lease_s=settings.lease_s,
            heartbeat_interval_s=settings.heartbeat_interval_s,
        )
        painter = ImageGenerationServicer(generation=generation, new_request_id=lambda: uuid.uuid4().hex)
        keeper = FleetServicer(
            router=settings.name,
            fleet=fleet,
            sessions=sessions,
            generation=generation,
            upkeep=Upkeep(registry=registry, fleet=fleet, clock=clock),
            usage=usage,
            records=records,
            waiting=lambda: Counter(ticket.job.brand for ticket in scheduler.waiting),
            now=_now,
        )
        backlog = FleetBacklog(
            fleet=fleet.snapshot,
            unplaced=lambda: [ticket.job for ticket in scheduler.waiting if not ticket.worker],
            callers=lambda: waiting_room.waiting,
        )
        scaler = Scaler(backlog=backlog)
        for_keda = ExternalScalerServicer(scaler=scaler)
        apis = [
            ServedApi(GENERATION, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(painter, server)),
            ServedApi(FLEET, lambda server: fleet_rpc.add_FleetServiceServicer_to_server(keeper, server)),
            ServedApi(SCALER, lambda server: keda_rpc.add_ExternalScalerServicer_to_server(for_keda, server)),
        ]
        span_names = {f"/{GENERATION}/Generate": "looksmith.generate"}
        server = await stack.enter_async_context(grpc_server(settings, apis, span_names=span_names))
        # First of all on the way out, so that sessions and KEDA's streams don't use up the server's grace.
        stack.callback(scheduler.stop)
        stack.callback(scaler.stop)
        stack.callback(sessions.stop)
        yield server


def _now() -> datetime:
    return datetime.now(UTC)
