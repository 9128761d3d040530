"""KEDA's external scaler, asked as KEDA asks: over gRPC, by the names of its own protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TypeAlias

import grpc
import pytest

from looksmith.errors import error_from_rpc
from looksmith.v1 import generation_pb2, generation_pb2_grpc
from services.router.client import Ack, FleetClient, Heartbeat, Welcome
from services.router.compose import router
from services.router.keda import externalscaler_pb2 as pb
from services.router.keda import externalscaler_pb2_grpc as rpc
from services.router.scaler import METRIC
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import hangs, joined_worker
from tests.unit.router.router_parts import acme, registration

pytestmark = pytest.mark.integration

Scaler: TypeAlias = "rpc.ExternalScalerAsyncStub"  # the stubs have it for type checkers only
Painting: TypeAlias = "generation_pb2_grpc.ImageGenerationServiceAsyncStub"
PICTURE = generation_pb2.GenerateRequest(brand="acme", prompt="a red kite", count=2)


def asking(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="workers", namespace="looksmith", scalerMetadata=metadata)


@pytest.fixture
async def scaler(address: str) -> AsyncIterator[Scaler]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.ExternalScalerStub(channel)


async def amount(scaler: Scaler, **metadata: str) -> float:
    request = pb.GetMetricsRequest(scaledObjectRef=asking(**metadata), metricName=METRIC)
    (value,) = (await scaler.GetMetrics(request)).metricValues
    assert value.metricName == METRIC
    assert value.metricValueFloat <= value.metricValue < value.metricValueFloat + 1
    return value.metricValueFloat


async def test_the_metric_s_target_is_the_trigger_s_or_half_a_minute(scaler: Scaler) -> None:
    (plain,) = (await scaler.GetMetricSpec(asking())).metricSpecs
    (told,) = (await scaler.GetMetricSpec(asking(targetSeconds="7.5"))).metricSpecs
    assert plain == pb.MetricSpec(metricName=METRIC, targetSize=30, targetSizeFloat=30)
    assert told == pb.MetricSpec(metricName=METRIC, targetSize=8, targetSizeFloat=7.5)


@pytest.mark.parametrize("method", ["IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics"])
async def test_every_call_refuses_a_bad_target_by_its_key(scaler: Scaler, method: str) -> None:
    ref = asking(targetSeconds="-1")
    request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=METRIC) if method == "GetMetrics" else ref
    call = getattr(scaler, method)(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (anext(aiter(call)) if method == "StreamIsActive" else call)
    error = error_from_rpc(caught.value)
    assert (error.code, error.violations[0].field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "scalerMetadata.targetSeconds",
    )


async def test_work_that_a_worker_has_is_seen_until_it_is_done_with(
    scaler: Scaler, painting: Painting, address: str
) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        assert not (await scaler.IsActive(asking())).result
        assert await amount(scaler) == 0
        call = painting.Generate(PICTURE)
        while not worker.requests:
            await anext(aiter(call))
        assert (await scaler.IsActive(asking())).result
        assert await amount(scaler) == await amount(scaler, recipe="studio") > 1
        assert await amount(scaler, recipe="sdxl") == 0
        call.cancel()
        await asyncio.wait_for(worker.stopped.wait(), 5)
        async with asyncio.timeout(5):
            while (await scaler.IsActive(asking())).result:  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        assert await amount(scaler) == 0


async def test_a_stream_tells_soon_that_work_came_and_went(scaler: Scaler, painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        stream = aiter(scaler.StreamIsActive(asking()))
        assert not (await asyncio.wait_for(anext(stream), 2)).result
        call = painting.Generate(PICTURE)
        while not worker.requests:
            await anext(aiter(call))
        began = time.monotonic()
        assert (await anext(stream)).result
        assert time.monotonic() - began < 1  # half a second, on a machine that has nothing else to do
        call.cancel()
        began = time.monotonic()
        assert not (await anext(stream)).result
        assert time.monotonic() - began < 1


async def test_requests_that_wait_for_a_first_worker_are_work_for_one(settings: RouterSettings) -> None:
    patient = settings.model_copy(update={"worker_wait_s": 20.0})
    async with (
        router(patient, registry=acme()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        scaler: Scaler = rpc.ExternalScalerStub(channel)
        stream = aiter(scaler.StreamIsActive(asking()))
        assert not (await anext(stream)).result
        calls = [generation_pb2_grpc.ImageGenerationServiceStub(channel).Generate(PICTURE) for _ in range(3)]
        assert (await asyncio.wait_for(anext(stream), 2)).result
        async with asyncio.timeout(2):  # the queue's growth is seen within 2 s
            while await amount(scaler) < len(calls):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()


async def test_requests_that_the_only_worker_takes_no_more_are_work_for_another(settings: RouterSettings) -> None:
    patient = settings.model_copy(update={"worker_wait_s": 20.0})
    async with (
        router(patient, registry=acme()) as server,
        FleetClient.connect(server.address) as fleet,
        fleet.join(registration()) as session,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await session.send(Heartbeat(1, full=True, draining=True))
        assert [type(await anext(session)) for _ in range(2)] == [Welcome, Ack]
        scaler: Scaler = rpc.ExternalScalerStub(channel)
        call = generation_pb2_grpc.ImageGenerationServiceStub(channel).Generate(PICTURE)
        async with asyncio.timeout(2):
            while not await amount(scaler, recipe="studio"):  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        assert (await scaler.IsActive(asking())).result
        assert not (await scaler.IsActive(asking(recipe="sdxl"))).result
        call.cancel()


async def test_streams_end_well_when_the_router_stops(settings: RouterSettings) -> None:
    slow = settings.model_copy(update={"shutdown_grace_s": 30})
    async with AsyncExitStack() as life:
        server = await life.enter_async_context(router(slow, registry=acme()))
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = rpc.ExternalScalerStub(channel).StreamIsActive(asking())
            stream = aiter(call)
            await anext(stream)
            stopping = asyncio.create_task(life.aclose())
            assert [message async for message in stream] == []
            assert await call.code() is grpc.StatusCode.OK
            await asyncio.wait_for(stopping, 5)
