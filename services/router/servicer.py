"""The gRPC edge of the router: converts, calls, converts. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import grpc

from looksmith.v1 import fleet_pb2 as fleet_pb
from looksmith.v1 import fleet_pb2_grpc as fleet_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.painting_pb import request_from_pb
from services.router.convert import (
    command_to_pb,
    explained_from_pb,
    explanation_to_pb,
    fleet_to_pb,
    join_from_pb,
    reset_to_pb,
    worker_to_pb,
)
from services.router.convert_events import router_event_to_pb
from services.router.convert_scaler import metric_to_pb, spec_to_pb, trigger_from_pb
from services.router.convert_upkeep import evicted_from_pb, reason_from_pb, since_from_pb, usage_to_pb, warmed_from_pb
from services.router.fleet import Fleet
from services.router.generate import Generation
from services.router.keda import externalscaler_pb2 as keda_pb
from services.router.keda import externalscaler_pb2_grpc as keda_rpc
from services.router.request_records import RequestRecords
from services.router.scaler import Scaler
from services.router.sessions import Sessions
from services.router.upkeep import Upkeep
from services.router.usage import Usage

Context = grpc.aio.ServicerContext[Any, Any]


class ImageGenerationServicer(rpc.ImageGenerationServiceServicer):
    """``new_request_id`` names requests that came without an id."""

    def __init__(self, *, generation: Generation, new_request_id: Callable[[], str]) -> None:
        self._generation = generation
        self._new_request_id = new_request_id

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        wanted = request_from_pb(request, new_request_id=self._new_request_id())
        async with aclosing(self._generation.paint(wanted, timeout_s=context.time_remaining())) as events:
            async for event in events:
                yield router_event_to_pb(event)


class FleetServicer(fleet_rpc.FleetServiceServicer):
    def __init__(
        self,
        *,
        router: str,
        fleet: Fleet,
        sessions: Sessions,
        generation: Generation,
        upkeep: Upkeep,
        usage: Usage,
        records: RequestRecords,
        waiting: Callable[[], Mapping[str, int]],
        now: Callable[[], datetime],
    ) -> None:
        self._router = router
        self._fleet = fleet
        self._sessions = sessions
        self._generation = generation
        self._upkeep = upkeep
        self._usage = usage
        self._records, self._waiting = records, waiting
        self._now = now

    async def Join(
        self, request_iterator: AsyncIterator[fleet_pb.JoinRequest], context: Context
    ) -> AsyncIterator[fleet_pb.JoinResponse]:
        messages = (join_from_pb(message) async for message in request_iterator)
        async with aclosing(self._sessions.join(messages)) as commands:
            async for command in commands:
                yield command_to_pb(command)

    async def ListWorkers(self, request: fleet_pb.ListWorkersRequest, context: Context) -> fleet_pb.ListWorkersResponse:
        return fleet_to_pb(self._fleet.snapshot(), self._router, queues=self._waiting(), now=self._now())

    async def GetWorker(self, request: fleet_pb.GetWorkerRequest, context: Context) -> fleet_pb.GetWorkerResponse:
        return fleet_pb.GetWorkerResponse(worker=worker_to_pb(self._fleet.view(request.name)))

    async def ExplainPlacement(
        self, request: fleet_pb.ExplainPlacementRequest, context: Context
    ) -> fleet_pb.ExplainPlacementResponse:
        return explanation_to_pb(await self._generation.explain(explained_from_pb(request)))

    async def WarmAdapter(self, request: fleet_pb.WarmAdapterRequest, context: Context) -> fleet_pb.WarmAdapterResponse:
        ref = warmed_from_pb(request)
        workers = await self._upkeep.warm(ref, homes=request.homes, timeout_s=context.time_remaining())
        return fleet_pb.WarmAdapterResponse(workers=workers)

    async def DrainWorker(self, request: fleet_pb.DrainWorkerRequest, context: Context) -> fleet_pb.DrainWorkerResponse:
        left = await self._upkeep.drain(request.name, reason_from_pb(request), timeout_s=context.time_remaining())
        return fleet_pb.DrainWorkerResponse(jobs_left=left)

    async def EvictAdapter(
        self, request: fleet_pb.EvictAdapterRequest, context: Context
    ) -> fleet_pb.EvictAdapterResponse:
        told = self._upkeep.evict(evicted_from_pb(request), worker=request.worker)
        return fleet_pb.EvictAdapterResponse(workers=told)

    async def ResetWorker(self, request: fleet_pb.ResetWorkerRequest, context: Context) -> fleet_pb.ResetWorkerResponse:
        reset = await self._upkeep.reset(request.name, reason_from_pb(request), timeout_s=context.time_remaining())
        return fleet_pb.ResetWorkerResponse(jobs_dropped=reset.jobs_dropped, reset=reset_to_pb(reset))

    async def GetUsage(self, request: fleet_pb.GetUsageRequest, context: Context) -> fleet_pb.GetUsageResponse:
        used = self._usage.of(request.brand, since=since_from_pb(request))
        return usage_to_pb(used, self._records.newest(request.records))


class ExternalScalerServicer(keda_rpc.ExternalScalerServicer):
    """What KEDA calls."""

    def __init__(self, *, scaler: Scaler) -> None:
        self._scaler = scaler

    async def IsActive(self, request: keda_pb.ScaledObjectRef, context: Context) -> keda_pb.IsActiveResponse:
        return keda_pb.IsActiveResponse(result=self._scaler.is_active(trigger_from_pb(request)))

    async def StreamIsActive(
        self, request: keda_pb.ScaledObjectRef, context: Context
    ) -> AsyncIterator[keda_pb.IsActiveResponse]:
        async with aclosing(self._scaler.activity(trigger_from_pb(request))) as changes:
            async for active in changes:
                yield keda_pb.IsActiveResponse(result=active)

    async def GetMetricSpec(self, request: keda_pb.ScaledObjectRef, context: Context) -> keda_pb.GetMetricSpecResponse:
        return spec_to_pb(trigger_from_pb(request))

    async def GetMetrics(self, request: keda_pb.GetMetricsRequest, context: Context) -> keda_pb.GetMetricsResponse:
        return metric_to_pb(self._scaler.metric(request.metricName, trigger_from_pb(request.scaledObjectRef)))
