"""Command that watches a running system: top. Adds up what routers and their workers count; keeps nothing between runs.

Rates are differences between two looks, so that the first one has none. A router that is lost is shown as such, and is
asked again at the next look; one that begins anew counts from 0.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from looksmith.cli.calls import ROUTER_DEFAULT, Json, Router, answer, connected, run, tier_name
from looksmith.cli.tables import table
from looksmith.cli.terminal import Problem, out, print_json
from looksmith.cli.worker import state_of
from looksmith.errors import LooksmithError
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc

#: Brands that are shown, the busiest first.
SHOWN = 15
#: Requests whose records are asked for at each look, to tell tiers and refusals of late.
RECORDS = 500


@dataclass(frozen=True)
class RouterLook:
    """What one router said at one look; ``error``: why it said nothing."""

    address: str
    error: str = ""
    listed: fleet_pb2.ListWorkersResponse | None = None
    usage: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # brand -> images, GPU-seconds
    records: Sequence[fleet_pb2.RequestRecord] = ()


@dataclass(frozen=True)
class Look:
    """All routers at one moment, on a steady clock."""

    at: float
    routers: Sequence[RouterLook]


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print that and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    routers: Router = ROUTER_DEFAULT,
    json: Json = False,
) -> None:
    """Watch routers and workers: jobs, images a second, GPU-seconds, tiers, refusals, and who waits. Ctrl-C ends it.

    All routers that are named are added up. One that is away is shown as such until it is back.
    """

    async def work() -> None:
        addresses = routers.split(",")
        before = await look(addresses)
        if once or json:
            await asyncio.sleep(every)
            after = await look(addresses)
            if all(seen.error for seen in after.routers):
                raise Problem(after.routers[0].error, 6)
            summed = summary(before, after)
            if json:
                print_json(summed)
            else:
                out.print(shown(summed))
            return
        live = Live(Text("looking ..."), console=out, screen=out.is_terminal, auto_refresh=False)
        with live, suppress(asyncio.CancelledError):  # a signal, which is how it is meant to end
            while True:
                await asyncio.sleep(every)
                after = await look(addresses)
                live.update(shown(summary(before, after)), refresh=True)
                before = after

    run(work())


async def look(addresses: Sequence[str]) -> Look:
    return Look(time.monotonic(), await asyncio.gather(*map(_ask, addresses)))


async def _ask(address: str) -> RouterLook:
    try:
        async with connected(address) as channel:
            stub = fleet_pb2_grpc.FleetServiceStub(channel)
            listed, used = await asyncio.gather(
                answer(stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=5)),
                answer(stub.GetUsage(fleet_pb2.GetUsageRequest(records=RECORDS), timeout=5)),
            )
    except LooksmithError as error:
        return RouterLook(address, error=error.message)
    usage = {each.brand: (each.images, each.gpu_seconds) for each in used.usage}
    return RouterLook(address, listed=listed, usage=usage, records=tuple(used.records))


def summary(before: Look, after: Look) -> dict[str, Any]:
    """What happened between two looks, and how things are at the second. Pure."""
    seconds = max(after.at - before.at, 1e-3)
    images: defaultdict[str, int] = defaultdict(int)
    gpu: defaultdict[str, float] = defaultdict(float)
    refused: Counter[str] = Counter()
    tiers: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    workers: dict[str, fleet_pb2.Worker] = {}
    earlier = {seen.address: seen for seen in before.routers}
    for seen in after.routers:
        was = earlier[seen.address]
        begun_anew = was.error or any(seen.usage.get(b, (0, 0))[0] < n for b, (n, _) in was.usage.items())
        base: Mapping[str, tuple[int, float]] = {} if begun_anew else was.usage
        for brand, (count, spent) in seen.usage.items():
            if was.error:  # how much of it is new nobody knows
                continue
            known_images, known_gpu = base.get(brand, (0, 0.0))
            images[brand] += count - known_images
            gpu[brand] += spent - known_gpu
        known = {(record.request_id, record.ended.ToNanoseconds()) for record in was.records}
        for record in seen.records if not was.error else ():
            if (record.request_id, record.ended.ToNanoseconds()) in known:
                continue
            refused.update([record.reason] if record.reason else [])
            tiers.update([tier] if (tier := tier_name(record.tier)) else [])
        waiting.update({queue.brand: queue.jobs for queue in seen.listed.queues} if seen.listed else {})
        for worker in seen.listed.workers if seen.listed else ():
            workers.setdefault(worker.registration.name, worker)
    busy = {brand for brand in images if images[brand] or gpu[brand]} | set(waiting)
    return {
        "seconds": round(seconds, 3),
        "images_per_second": round(sum(images.values()) / seconds, 3),
        "gpu_seconds_per_second": round(sum(gpu.values()) / seconds, 3),
        "routers": [
            {"address": seen.address, "name": seen.listed.router if seen.listed else "", "error": seen.error}
            for seen in after.routers
        ],
        "workers": [_worker(workers[name]) for name in sorted(workers)],
        "brands": [
            {
                "brand": brand,
                "waiting_jobs": waiting[brand],
                "images_per_second": round(images[brand] / seconds, 3),
                "gpu_seconds_per_second": round(gpu[brand] / seconds, 3),
            }
            for brand in sorted(busy, key=lambda brand: (-gpu[brand], -waiting[brand], brand))
        ],
        "refusals": dict(sorted(refused.items())),
        "tiers": dict(sorted(tiers.items())),
    }


def _worker(worker: fleet_pb2.Worker) -> dict[str, Any]:
    beat = worker.heartbeat
    return {
        "worker": worker.registration.name,
        "state": state_of(worker),
        "running_jobs": beat.running_jobs,
        "queued_jobs": beat.queued_jobs,
        "booked_gpu_seconds": round(worker.booked_gpu_seconds, 3),
        "slots": beat.slots,
        "slots_used": beat.slots_used,
        "host_bytes": beat.host_bytes,
        "disk_bytes": beat.disk_bytes,
    }


def shown(summed: Mapping[str, Any]) -> Group:
    """A summary for people."""
    head = f"{summed['images_per_second']:.1f} images/s, {summed['gpu_seconds_per_second']:.2f} GPU-seconds/s"
    away = [Text(f"{r['address']} is away: {r['error']}", style="red") for r in summed["routers"] if r["error"]]
    workers = [
        (
            w["worker"],
            w["state"],
            w["running_jobs"],
            w["queued_jobs"],
            w["booked_gpu_seconds"],
            f"{w['slots_used']}/{w['slots']}",
            w["host_bytes"] / 1e6,
        )
        for w in summed["workers"]
    ]
    brands = [
        (b["brand"], b["waiting_jobs"], b["images_per_second"], b["gpu_seconds_per_second"])
        for b in summed["brands"][:SHOWN]
    ]
    tiers = ", ".join(f"{tier} {count}" for tier, count in summed["tiers"].items())
    refused = ", ".join(f"{reason} {count}" for reason, count in summed["refusals"].items())
    columns = ("worker", "state", "running", "waiting", "booked\nGPU s", "slots", "memory\nMB")
    parts: list[RenderableType] = [
        Text(head, style="bold"),
        *away,
        Text(f"requests that ended, by where their adapters were found: {tiers or 'none'}"),
        Text(f"refused or failed: {refused}" if refused else "nothing refused", style="yellow" if refused else "dim"),
        table(columns, workers),
    ]
    return Group(
        *parts, *([table(("brand", "waiting", "images\na second", "GPU s\na second"), brands)] if brands else [])
    )
