"""A registry and a router for the command's tests: real servers on port 0 that answer what they were given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message

from looksmith.errors import LooksmithError, error_to_status
from looksmith.v1 import (
    adapter_pb2,
    brand_pb2,
    brand_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

PAGE = 2
PICTURE = b"no PNG, but nobody looks"
STYLE = adapter_pb2.PinnedAdapter(adapter="house-style", version=3, digest="0f" * 32, weight=1)


@dataclass
class FakeServers(
    brand_pb2_grpc.BrandServiceServicer,
    registry_pb2_grpc.AdapterRegistryServiceServicer,
    fleet_pb2_grpc.FleetServiceServicer,
    rpc.ImageGenerationServiceServicer,
):
    """Lists come two at a time, whatever page size was asked for. ``refusal`` is what Generate and WarmAdapter raise.

    ``yanked`` holds brands and versions; ``yanks`` what was asked to be withdrawn; ``asked`` what else was to be done.
    """

    brands: list[brand_pb2.Brand] = field(default_factory=list)
    adapters: list[adapter_pb2.Adapter] = field(default_factory=list)
    yanked: set[tuple[str, int]] = field(default_factory=set)
    events: list[registry_pb2.AdapterEvent] = field(default_factory=list)
    yanks: list[registry_pb2.YankAdapterVersionRequest] = field(default_factory=list)
    workers: list[fleet_pb2.Worker] = field(default_factory=list)
    candidates: list[fleet_pb2.PlacementCandidate] = field(default_factory=list)
    usage: list[fleet_pb2.BrandUsage] = field(default_factory=list)
    records: list[fleet_pb2.RequestRecord] = field(default_factory=list)
    reset: fleet_pb2.WorkerReset = field(default_factory=fleet_pb2.WorkerReset)
    asked: list[Message] = field(default_factory=list)
    sharing: bool = False  # whether two workers paint a request, after a wait
    blocked: set[int] = field(default_factory=set)  # images that Generate blocks
    refusal: LooksmithError | None = None
    address: str = ""

    def ListBrands(
        self, request: brand_pb2.ListBrandsRequest, context: grpc.ServicerContext
    ) -> brand_pb2.ListBrandsResponse:
        start = int(request.page_token or 0)
        more = str(start + PAGE) if start + PAGE < len(self.brands) else ""
        return brand_pb2.ListBrandsResponse(brands=self.brands[start : start + PAGE], next_page_token=more)

    def ListAdapters(
        self, request: registry_pb2.ListAdaptersRequest, context: grpc.ServicerContext
    ) -> registry_pb2.ListAdaptersResponse:
        found = [a for a in self.adapters if request.brand in {"", a.brand}]
        start = int(request.page_token or 0)
        more = str(start + PAGE) if start + PAGE < len(found) else ""
        return registry_pb2.ListAdaptersResponse(adapters=found[start : start + PAGE], next_page_token=more)

    def ListAdapterVersions(
        self, request: registry_pb2.ListAdapterVersionsRequest, context: grpc.ServicerContext
    ) -> registry_pb2.ListAdapterVersionsResponse:
        found = next(a for a in self.adapters if (a.brand, a.name) == (request.brand, request.adapter))
        newest = int(request.page_token or found.latest_version)
        shown = range(newest, max(0, newest - PAGE), -1)
        versions = [self._version(found.brand, found.name, number) for number in shown]
        more = str(shown[-1] - 1) if shown[-1] > 1 else ""
        return registry_pb2.ListAdapterVersionsResponse(versions=versions, next_page_token=more)

    def YankAdapterVersion(
        self, request: registry_pb2.YankAdapterVersionRequest, context: grpc.ServicerContext
    ) -> registry_pb2.YankAdapterVersionResponse:
        self.yanks.append(request)
        self.yanked.add((request.brand, request.version))
        version = self._version(request.brand, request.adapter, request.version)
        return registry_pb2.YankAdapterVersionResponse(version=version, seq=9)

    def PromoteAdapter(
        self, request: registry_pb2.PromoteAdapterRequest, context: grpc.ServicerContext
    ) -> registry_pb2.PromoteAdapterResponse:
        self.asked.append(request)
        alias = adapter_pb2.Alias(name="production", version=request.ref.version)
        return registry_pb2.PromoteAdapterResponse(alias=alias, previous_version=1, seq=9)

    def ResolveAdapter(
        self, request: registry_pb2.ResolveAdapterRequest, context: grpc.ServicerContext
    ) -> registry_pb2.ResolveAdapterResponse:
        version = self._version(request.ref.brand, request.ref.adapter, 1)
        version.digest = STYLE.digest
        return registry_pb2.ResolveAdapterResponse(version=version, seq=9)

    def RollbackAdapter(
        self, request: registry_pb2.RollbackAdapterRequest, context: grpc.ServicerContext
    ) -> registry_pb2.RollbackAdapterResponse:
        alias = adapter_pb2.Alias(name=request.alias, version=1)
        return registry_pb2.RollbackAdapterResponse(alias=alias, previous_version=2, seq=9)

    def GetAdapterHistory(
        self, request: registry_pb2.GetAdapterHistoryRequest, context: grpc.ServicerContext
    ) -> registry_pb2.GetAdapterHistoryResponse:
        until = request.at_time.ToSeconds() if request.HasField("at_time") else float("inf")
        events = [event for event in self.events if event.time.ToSeconds() <= until]
        return registry_pb2.GetAdapterHistoryResponse(events=events[: request.page_size])

    def _version(self, brand: str, adapter: str, number: int) -> adapter_pb2.AdapterVersion:
        states = adapter_pb2.ADAPTER_VERSION_STATE_READY, adapter_pb2.ADAPTER_VERSION_STATE_YANKED
        state = states[(brand, number) in self.yanked]
        return adapter_pb2.AdapterVersion(brand=brand, adapter=adapter, version=number, state=state)

    def ListWorkers(
        self, request: fleet_pb2.ListWorkersRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.ListWorkersResponse:
        return fleet_pb2.ListWorkersResponse(workers=self.workers, router="router-0")

    def ExplainPlacement(
        self, request: fleet_pb2.ExplainPlacementRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.ExplainPlacementResponse:
        best = self.candidates[0] if self.candidates else None
        placed = pb.Placed(worker=best.worker, reason=best.reason, tier=best.tier) if best else None
        return fleet_pb2.ExplainPlacementResponse(placed=placed, candidates=self.candidates, adapters=[STYLE])

    def WarmAdapter(
        self, request: fleet_pb2.WarmAdapterRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.WarmAdapterResponse:
        self._refuse(context)
        self.asked.append(request)
        return fleet_pb2.WarmAdapterResponse(workers=["worker-0", "worker-1"])

    def DrainWorker(
        self, request: fleet_pb2.DrainWorkerRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.DrainWorkerResponse:
        self.asked.append(request)
        return fleet_pb2.DrainWorkerResponse(jobs_left=2)

    def GetWorker(
        self, request: fleet_pb2.GetWorkerRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.GetWorkerResponse:
        worker = next(worker for worker in self.workers if worker.registration.name == request.name)
        return fleet_pb2.GetWorkerResponse(worker=worker)

    def ResetWorker(
        self, request: fleet_pb2.ResetWorkerRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.ResetWorkerResponse:
        self.asked.append(request)
        return fleet_pb2.ResetWorkerResponse(jobs_dropped=self.reset.jobs_dropped, reset=self.reset)

    def EvictAdapter(
        self, request: fleet_pb2.EvictAdapterRequest, context: grpc.ServicerContext
    ) -> fleet_pb2.EvictAdapterResponse:
        self.asked.append(request)
        return fleet_pb2.EvictAdapterResponse(workers=[request.worker] if request.worker else ["worker-0", "worker-1"])

    def GetUsage(self, request: fleet_pb2.GetUsageRequest, context: grpc.ServicerContext) -> fleet_pb2.GetUsageResponse:
        self.asked.append(request)
        return fleet_pb2.GetUsageResponse(usage=self.usage, records=self.records[: request.records])

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.refusal:
            status = error_to_status(self.refusal)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(self.refusal.code, self.refusal.message)

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        self._refuse(context)
        yield pb.GenerateResponse(
            accepted=pb.Accepted(request_id=request.request_id, seed=request.seed, adapters=[STYLE])
        )
        placed = pb.Placed(worker="worker-0", reason="home, adapter on device", attempt=1)
        if self.sharing:
            yield pb.GenerateResponse(queued=pb.Queued(reason="waits for worker-0"))
            yield pb.GenerateResponse(placed=pb.Placed(worker="worker-1", reason="next in line", attempt=1, images=[1]))
            placed.images.append(0)
        yield pb.GenerateResponse(placed=placed)
        for i in range(request.count):
            if i in self.blocked:
                told = pb.ImageBlocked(image=i, seed=request.seed + i, reason="SAFETY_CHECKER")
                yield pb.GenerateResponse(image_blocked=told)
                continue
            yield pb.GenerateResponse(chunk=pb.ImageChunk(image=i, data=PICTURE))
            sha256 = hashlib.sha256(PICTURE).hexdigest()
            yield pb.GenerateResponse(image_done=pb.ImageDone(image=i, seed=request.seed + i, sha256=sha256))
        yield pb.GenerateResponse(finished=pb.Finished(worker="worker-0", adapters=[STYLE], attempts=1))


@contextmanager
def serving(fakes: FakeServers) -> Iterator[FakeServers]:
    """The fakes with the address at which all of them listen."""
    server = grpc.server(ThreadPoolExecutor(4))
    brand_pb2_grpc.add_BrandServiceServicer_to_server(fakes, server)
    registry_pb2_grpc.add_AdapterRegistryServiceServicer_to_server(fakes, server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(fakes, server)
    rpc.add_ImageGenerationServiceServicer_to_server(fakes, server)
    fakes.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fakes
    finally:
        server.stop(0).wait()
