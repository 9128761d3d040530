"""Commands about one worker: worker, reset."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from looksmith.cli.calls import ROUTER_DEFAULT, Json, Router, answer, as_dict, connected, run, tier_name
from looksmith.cli.tables import table
from looksmith.cli.terminal import Problem, err, out, print_json, say
from looksmith.cli.worker_findings import size
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc

Name = Annotated[str, typer.Argument(help="Name of the worker, as `looksmith workers` lists it.")]
#: Adapters that are listed; a worker may hold thousands, most of them on disk.
LISTED = 20


def worker(name: Name, *, routers: Router = ROUTER_DEFAULT, json: Json = False) -> None:
    """Tell all that a router knows of one worker: what it is at, what it holds, what things cost there, what failed."""

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            told = (await answer(stub.GetWorker(fleet_pb2.GetWorkerRequest(name=name), timeout=10))).worker
        if json:
            print_json(as_dict(told))
        else:
            _show(told)

    run(work())


def reset(
    worker: Name,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the worker's log.")] = "",
    timeout: Annotated[
        float, typer.Option(min=0.5, help="Seconds to wait at most; the reset goes on after that.")
    ] = 300.0,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Have a worker throw its engine away and load a new one, while its process goes on and no request fails.

    It takes no jobs meanwhile and finishes those that it has begun; other workers paint the rest, and where there is no
    other, requests wait. An engine that hangs holds its thread for ever: then the process ends with exit code 3, once
    its jobs are with others, and its supervisor starts it anew.
    """

    async def work() -> None:
        async with connected(routers) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            request = fleet_pb2.ResetWorkerRequest(name=worker, reason=reason)
            with err.status(f"{worker} finishes its jobs and loads a new engine"):
                done = await answer(stub.ResetWorker(request, timeout=timeout))
        if json:
            print_json(as_dict(done))
        _conclude(worker, done.reset, quiet=json)

    run(work())


def state_of(worker: fleet_pb2.Worker) -> str:
    """A worker's state in a word, with how far a reset is."""
    state = fleet_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()
    if worker.state != fleet_pb2.WORKER_STATE_RESETTING:
        return state
    reset = worker.heartbeat.reset
    return f"{state}: {_phase(reset)}, {reset.duration.ToTimedelta().total_seconds():.0f} s"


def _conclude(worker: str, reset: fleet_pb2.WorkerReset, *, quiet: bool) -> None:
    """Raises: Problem, where there is no new engine."""
    took = f"{reset.duration.ToTimedelta().total_seconds():.1f} s"
    dropped = f"{reset.jobs_dropped} jobs were left to others" if reset.jobs_dropped else "no job was dropped"
    match reset.phase:
        case fleet_pb2.RESET_PHASE_DONE:
            if not quiet:
                say(f"{worker} has a new engine after {took}; {dropped}")
        case fleet_pb2.RESET_PHASE_REFUSED:
            raise Problem(f"{worker} goes on with the engine that it has: {reset.problem}", 4)
        case fleet_pb2.RESET_PHASE_PROCESS_ENDS:
            raise Problem(
                f"the process of {worker} ends, for its supervisor to start anew: {reset.problem}; {dropped}", 1
            )
        case _:
            raise Problem(f"{worker} is still at it after {took} ({_phase(reset)}); `looksmith workers` tells when", 7)


def _phase(reset: fleet_pb2.WorkerReset) -> str:
    return fleet_pb2.ResetPhase.Name(reset.phase).removeprefix("RESET_PHASE_").lower().replace("_", " ")


def _show(told: fleet_pb2.Worker) -> None:
    who, beat = told.registration, told.heartbeat
    say(f"{who.name} is {state_of(told)}; release {who.version or 'unknown'}, at {who.address}")
    recipes = ", ".join(recipe.name for recipe in who.recipes)
    say(f"  paints {recipes} with {who.engine} on {who.device}, {who.max_rows} rows at once")
    if beat.HasField("stalled"):
        say(f"  its engine has been at one step for {beat.stalled.ToTimedelta().total_seconds():.0f} s")
    say(f"  {beat.running_jobs} jobs running, {beat.queued_jobs} waiting{_booked(beat)}")
    say(f"  {_of(beat.host_bytes, who.host_limit_bytes)} of memory for adapters, {_free(beat, 'memory')}")
    say(f"  {_of(beat.disk_bytes, who.disk_limit_bytes)} of disk for adapters, {_free(beat, 'disk')}")
    if reset := beat.reset if beat.HasField("reset") else None:
        problem = f": {reset.problem}" if reset.problem else ""
        say(f"  reset {reset.number} times, the last one {_phase(reset)}{problem}")
    tiers = Counter(tier_name(held.tier) for held in beat.residency)
    counted = ", ".join(f"{count} on {tier}" for tier, count in sorted(tiers.items(), key=str)) or "none"
    say(f"  adapters: {beat.slots_used} of {beat.slots} slots taken; {counted}")
    held = sorted(beat.residency, key=lambda each: (each.tier, each.digest))[:LISTED]
    if held:
        out.print(
            table(("adapter's sha256", "fastest tier"), [(each.digest[:16], tier_name(each.tier)) for each in held])
        )
    if beat.costs:
        costs = [
            (c.recipe, f"{c.size.width}x{c.size.height}", c.rows, 1000 * c.step_seconds, 1000 * c.fixed_seconds)
            for c in beat.costs
        ]
        out.print(table(("recipe", "size", "rows", "step\nms", "rest of an\nimage, ms"), costs))
    if beat.last_errors:
        errors = [(f"{e.time.ToDatetime():%H:%M:%S}", e.reason, e.message) for e in beat.last_errors]
        out.print(table(("failed\n(UTC)", "reason", "what happened"), errors))


def _booked(beat: fleet_pb2.WorkerHeartbeat) -> str:
    booked = [f"{each.gpu_seconds:.1f} GPU-seconds of {each.router}" for each in beat.booked if each.gpu_seconds]
    return f" ({', '.join(booked)})" if booked else ""


def _free(beat: fleet_pb2.WorkerHeartbeat, what: str) -> str:
    """What is left of a machine's memory or disk, if it tells."""
    if not beat.HasField(f"{what}_free_bytes"):  # type: ignore[arg-type]  # one of two literals
        return f"how much {what} is left it does not tell"
    return f"{size(getattr(beat, f'{what}_free_bytes'))} of the machine's are left"


def _of(used: int, limit: int) -> str:
    return f"{size(used)} of {size(limit)}" if limit else size(used)
