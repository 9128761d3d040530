"""Commands about the workers: workers, explain."""

from __future__ import annotations

from looksmith.cli.calls import ROUTER_DEFAULT, Brand, Json, Router, answer, as_dict, connected, run
from looksmith.cli.terminal import out, print_json, table
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2


def workers(*, routers: Router = ROUTER_DEFAULT, json: Json = False) -> None:
    """List the GPU workers that the router knows."""

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
        out.print(table(columns, rows, title=f"{listed.router}"))

    run(work())


def explain(
    brand: Brand,
    *,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Tell where a brand's next picture would be painted, and why not elsewhere."""

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            asked = generation_pb2.GenerateRequest(brand=brand, prompt="explain")
            request = fleet_pb2.ExplainPlacementRequest(request=asked)
            told = await answer(stub.ExplainPlacement(request, timeout=10))
        if json:
            print_json(as_dict(told))
            return
        rows = [
            (
                c.worker,
                c.rank,
                1000 * c.expected_seconds,
                1000 * c.booked_seconds,
                1000 * c.adapter_seconds,
                generation_pb2.Tier.Name(c.tier).removeprefix("TIER_").lower(),
                c.reason,
            )
            for c in told.candidates
        ]
        columns = ("worker", "hash rank", "expected ms", "booked ms", "adapter ms", "tier", "why")
        out.print(table(columns, rows))

    run(work())
