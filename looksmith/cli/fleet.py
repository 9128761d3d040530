"""Commands about the workers: workers, explain, warm, drain, evict, usage."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from looksmith.cli.calls import (
    REGISTRY_DEFAULT,
    ROUTER_DEFAULT,
    AdapterName,
    Brand,
    Json,
    Registry,
    Router,
    answer,
    as_dict,
    connected,
    parse_ref,
    run,
    tier_name,
    to_registry,
)
from looksmith.cli.tables import table
from looksmith.cli.terminal import out, print_json, say
from looksmith.cli.worker import state_of
from looksmith.v1 import adapter_pb2, fleet_pb2, fleet_pb2_grpc, generation_pb2, registry_pb2, registry_pb2_grpc

Timeout = Annotated[float, typer.Option(min=0.5, help="Seconds to wait at most.")]


def workers(*, routers: Router = ROUTER_DEFAULT, json: Json = False) -> None:
    """List the GPU workers that a router knows: their state, their slots for adapters, their jobs."""

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            listed = await answer(stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=10))
        if json:
            print_json(as_dict(listed))
            return
        rows = [
            (
                w.registration.name,
                state_of(w),
                w.registration.engine,
                w.registration.device,
                ", ".join(r.name for r in w.registration.recipes),
                f"{w.heartbeat.slots_used}/{w.heartbeat.slots}",
                w.heartbeat.queued_jobs,
                w.heartbeat.running_jobs,
            )
            for w in listed.workers
        ]
        columns = ("worker", "state", "engine", "device", "recipes", "slots", "queued", "running")
        say(f"{len(rows)} workers at router {listed.router}")
        out.print(table(columns, rows, expendable=("engine", "device")))

    run(work())


def explain(
    brand: Brand,
    *,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Tell where a brand's next picture would be painted, and why not elsewhere. Paints nothing."""

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            asked = generation_pb2.GenerateRequest(brand=brand, prompt="explain")
            request = fleet_pb2.ExplainPlacementRequest(request=asked)
            told = await answer(stub.ExplainPlacement(request, timeout=10))
        if json:
            print_json(as_dict(told))
            return
        used = ", ".join(f"{a.adapter}@{a.version} (sha256 {a.digest[:12]})" for a in told.adapters) or "the base alone"
        where = f"{told.placed.worker} ({told.placed.reason})" if told.HasField("placed") else "nobody could paint it"
        say(f"{brand} with {used}: {where}")
        columns = ("worker", "hash\nrank", "expected\nms", "booked\nms", "adapter\nms", "tier", "why")
        out.print(table(columns, [_candidate(c) for c in told.candidates], expendable=("hash\nrank", "booked\nms")))

    run(work())


def warm(
    adapter: AdapterName,
    *,
    homes: Annotated[
        int, typer.Option(min=0, help="Workers to warm it on, in the brand's order; 0: its home and the next in line.")
    ] = 0,
    timeout: Timeout = 60.0,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Bring an adapter to the memory of the workers that will paint with it, before anyone asks for a picture."""

    async def work() -> None:
        done = await warmed(parse_ref(adapter), homes=homes, timeout_s=timeout, routers=routers)
        if json:
            print_json(as_dict(done))
            return
        say(f"{adapter} is in the memory of {', '.join(done.workers)}")

    run(work())


async def warmed(
    ref: adapter_pb2.AdapterRef, *, homes: int, timeout_s: float, routers: str
) -> fleet_pb2.WarmAdapterResponse:
    """What the first router says once the adapter is warm."""
    async with connected(routers) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        return await answer(stub.WarmAdapter(fleet_pb2.WarmAdapterRequest(ref=ref, homes=homes), timeout=timeout_s))


def drain(
    worker: Annotated[str, typer.Argument(help="Name of the worker, as `looksmith workers` lists it.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for the worker's log.")] = "",
    timeout: Timeout = 10.0,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Have a worker take no more jobs and finish those that it has. It takes jobs again once its process is a new one.

    All routers stop placing on it, whichever was told.
    """

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            request = fleet_pb2.DrainWorkerRequest(name=worker, reason=reason)
            done = await answer(stub.DrainWorker(request, timeout=timeout))
        if json:
            print_json(as_dict(done))
            return
        say(f"{worker} takes no more jobs; {done.jobs_left} are left")

    run(work())


def evict(
    adapter: Annotated[str, typer.Argument(help="BRAND/ADAPTER, with @VERSION or :ALIAS; or a file's SHA-256.")],
    *,
    worker: Annotated[str, typer.Option(help="Only this worker; all of them where it is not given.")] = "",
    routers: Router = ROUTER_DEFAULT,
    registry: Registry = REGISTRY_DEFAULT,
    json: Json = False,
) -> None:
    """Have workers forget an adapter on the device and in memory; it stays on their disks.

    A worker that has a job with the adapter keeps it. A version that was yanked is named by its SHA-256.
    """

    async def work() -> None:
        digest = await _digest_of(adapter, registry) if "/" in adapter else adapter
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            told = await answer(
                stub.EvictAdapter(fleet_pb2.EvictAdapterRequest(worker=worker, digest=digest), timeout=10)
            )
        if json:
            print_json(as_dict(told))
            return
        say(f"told to forget it: {', '.join(told.workers) or 'nobody, as there are no workers'}")

    run(work())


async def _digest_of(adapter: str, registry: str) -> str:
    ref = parse_ref(adapter)
    if ref.WhichOneof("pick") == "digest":
        return ref.digest
    async with to_registry(registry) as channel:
        stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
        resolved = await answer(stub.ResolveAdapter(registry_pb2.ResolveAdapterRequest(ref=ref), timeout=10))
        return resolved.version.digest


def usage(
    brand: Annotated[str, typer.Argument(help="Only this brand.")] = "",
    *,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only from this minute on, in UTC; routers tell the last hour. Else since they started."),
    ] = None,
    records: Annotated[
        int, typer.Option(min=0, max=10_000, help="List so many of the newest requests, too, one by one.")
    ] = 0,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Tell how many images and GPU-seconds each brand was given by the routers named, all of them together.

    Routers remember their last 10000 requests. For bills export them all from the routers' logs: each is a line with
    the event request.ended.
    """

    async def work() -> None:
        request = fleet_pb2.GetUsageRequest(brand=brand, records=records)
        listed: list[fleet_pb2.RequestRecord] = []
        if since:
            request.since.FromDatetime(since if since.tzinfo else since.replace(tzinfo=UTC))
        sums: defaultdict[str, fleet_pb2.BrandUsage] = defaultdict(fleet_pb2.BrandUsage)
        for router in routers.split(","):
            async with connected(router) as channel:
                stub = fleet_pb2_grpc.FleetServiceStub(channel)
                told = await answer(stub.GetUsage(request, timeout=10))
            for each in told.usage:
                sums[each.brand].images += each.images
                sums[each.brand].gpu_seconds += each.gpu_seconds
            listed += [each for each in told.records if brand in {"", each.brand}]
        listed = sorted(listed, key=lambda each: each.ended.ToNanoseconds(), reverse=True)[:records]
        used = [
            fleet_pb2.BrandUsage(brand=name, images=sums[name].images, gpu_seconds=sums[name].gpu_seconds)
            for name in sorted(sums)
        ]
        if json:
            print_json(as_dict(fleet_pb2.GetUsageResponse(usage=used, records=listed)))
            return
        rows = [(each.brand or "(all others)", each.images, each.gpu_seconds) for each in used]
        out.print(table(("brand", "images", "GPU\nseconds"), rows))
        if listed:
            columns = ("ended\n(UTC)", "brand", "request id", "status", "images", "GPU\nseconds", "seconds", "workers")
            out.print(table(columns, [_record(each) for each in listed], expendable=("workers", "seconds")))

    run(work())


def _record(record: fleet_pb2.RequestRecord) -> tuple[object, ...]:
    return (
        f"{record.ended.ToDatetime():%H:%M:%S}",
        record.brand,
        record.request_id,
        record.reason or record.status,
        record.images,
        record.gpu_seconds,
        record.duration.ToTimedelta().total_seconds(),
        ", ".join(record.workers),
    )


def _candidate(seen: fleet_pb2.PlacementCandidate) -> tuple[object, ...]:
    """A row of explain; one that can't paint has no times."""
    seconds = (seen.expected_seconds, seen.booked_seconds, seen.adapter_seconds)
    times = [1000 * s if seen.eligible else None for s in seconds]
    return seen.worker, seen.rank, *times, tier_name(seen.tier), seen.reason
