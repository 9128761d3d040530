"""An autoscaler that obeys the router: what it sees of a growing queue, and callers while the last worker is away.

Speaks KEDA's protocol, as KEDA does, and starts and ends worker processes as KEDA has Kubernetes do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.asking import Outcome
from benchmarks.load import Load, elsewhere
from benchmarks.router_stack import RouterStack, router_stack
from services.router.keda import externalscaler_pb2 as pb
from services.router.keda import externalscaler_pb2_grpc as rpc
from services.router.scaler import METRIC

BRANDS = {"brand-0": 1.0, "brand-1": 1.0}
SCALE = 2.0  # a picture takes some 0.2 s
WORKER_WAIT_S = 90.0
#: Requests a second while the worker comes and goes; and callers who make a queue grow.
RATE, CROWD = 1.5, 40
#: For which the one worker works before it is told to go, for which there is none, and for which another one works.
AT_WORK_S, GONE_S, AFTER_S = 8.0, 6.0, 12.0
_ASK_EVERY_S = 0.1
_REF = pb.ScaledObjectRef(name="workers", namespace="looksmith", scalerMetadata={"targetSeconds": "5"})


@dataclass
class _Scaler:
    """What KEDA asks, with a look at the clock."""

    stub: rpc.ExternalScalerAsyncStub
    activity: list[bool] = field(default_factory=list)  # as pushed

    async def metric(self) -> float:
        request = pb.GetMetricsRequest(scaledObjectRef=_REF, metricName=METRIC)
        (value,) = (await self.stub.GetMetrics(request, timeout=5)).metricValues
        return float(value.metricValueFloat)

    async def active(self) -> bool:
        return bool((await self.stub.IsActive(_REF, timeout=5)).result)

    async def until(self, *, active: bool) -> float:
        """Seconds until it says so."""
        began = time.monotonic()
        while await self.active() is not active:  # noqa: ASYNC110  # KEDA asks now and then, too
            await asyncio.sleep(_ASK_EVERY_S)
        return time.monotonic() - began

    async def hear(self) -> None:
        async for pushed in self.stub.StreamIsActive(_REF):
            self.activity.append(pushed.result)


async def scaling(folder: Path) -> dict[str, float]:
    """First a queue that grows, then 1 -> 0 -> 1 workers under load."""
    async with (
        router_stack(folder, brands=list(BRANDS), ROUTER_WORKER_WAIT_S=WORKER_WAIT_S) as stack,
        _scaler(stack.router) as scaler,
    ):
        await _start(stack)
        growth = await _growth(stack, scaler)
        away, outcomes = await _from_one_to_none_to_one(stack, scaler)
        idle_s = await scaler.until(active=False)
    asked_then = [o for o in outcomes if away.gone_at <= o.asked_at < away.back_at]
    long_away = [o for o in asked_then if o.ended_at - o.asked_at > 2.5]  # callers are told every 2 s
    return {
        "scaler_growth_seen_s": growth,
        "scaling_failed": float(sum(not outcome.ok for outcome in outcomes)),
        "scaling_untold": float(sum(not outcome.queued for outcome in long_away)),
        "scaling_wants_worker_s": away.wanted_s,
        "scaling_without_worker_s": away.back_at - away.gone_at,
        "scaling_requests": float(len(outcomes)),
        "scaling_waited": float(len(asked_then)),
        "scaling_slowest_s": max(outcome.seconds for outcome in outcomes),
        "scaling_idle_seen_s": idle_s,
        "scaling_changes_pushed": float(len(scaler.activity)),
    }


@dataclass(frozen=True)
class _Away:
    """When the last worker was told to go and another had joined, and how soon after it had gone one was wanted."""

    gone_at: float
    back_at: float
    wanted_s: float


async def _growth(stack: RouterStack, scaler: _Scaler) -> float:
    """Seconds from a crowd's first request until the metric says more than the one worker's target."""
    await elsewhere(Load(stack.router, 2.0, BRANDS, callers=1))  # what pictures cost is known now
    await asyncio.sleep(1.5)
    crowd = asyncio.create_task(elsewhere(Load(stack.router, 3.0, BRANDS, callers=CROWD)))
    try:
        while not await scaler.active():  # noqa: ASYNC110  # the callers' process has yet to start
            await asyncio.sleep(0.01)
        began = time.monotonic()
        (spec,) = (await scaler.stub.GetMetricSpec(_REF, timeout=5)).metricSpecs
        while await scaler.metric() <= spec.targetSizeFloat:
            if crowd.done():
                raise RuntimeError("the metric never said that the queue had grown")
            await asyncio.sleep(0.02)
        seen_s = time.monotonic() - began
    finally:
        outcomes = await crowd
    if failed := [outcome for outcome in outcomes if not outcome.ok]:
        raise RuntimeError(f"a caller of the crowd failed: {failed[0]}")
    return seen_s


async def _from_one_to_none_to_one(stack: RouterStack, scaler: _Scaler) -> tuple[_Away, list[Outcome]]:
    seconds = AT_WORK_S + GONE_S + AFTER_S
    calling = asyncio.create_task(elsewhere(Load(stack.router, seconds, BRANDS, rate=RATE)))
    await asyncio.sleep(AT_WORK_S)
    gone_at = time.monotonic()
    await stack.end("worker-0")  # by SIGTERM: it finishes what it has
    wanted_s = await scaler.until(active=True)
    await asyncio.sleep(GONE_S)
    if await scaler.metric() <= 0:
        raise RuntimeError("requests wait, and no worker is wanted")
    await _start(stack)
    return _Away(gone_at, time.monotonic(), wanted_s), await calling


async def _start(stack: RouterStack) -> None:
    await stack.start_worker("worker-0", WORKER_TIMED_SCALE=SCALE)


@asynccontextmanager
async def _scaler(router: str) -> AsyncIterator[_Scaler]:
    async with grpc.aio.insecure_channel(router) as channel:
        scaler = _Scaler(rpc.ExternalScalerStub(channel))
        hearing = asyncio.create_task(scaler.hear())
        try:
            yield scaler
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
