"""Commands about the workers: workers, explain."""

from __future__ import annotations

from looksmith.cli.calls import ROUTER_DEFAULT, Brand, Json, Router, answer, as_dict, connected, run, tier_name
from looksmith.cli.tables import table
from looksmith.cli.terminal import out, print_json, say
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2


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
                fleet_pb2.WorkerState.Name(w.state).removeprefix("WORKER_STATE_").lower(),
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


def _candidate(seen: fleet_pb2.PlacementCandidate) -> tuple[object, ...]:
    """A row of explain; one that can't paint has no times."""
    seconds = (seen.expected_seconds, seen.booked_seconds, seen.adapter_seconds)
    times = [1000 * s if seen.eligible else None for s in seconds]
    return seen.worker, seen.rank, *times, tier_name(seen.tier), seen.reason
