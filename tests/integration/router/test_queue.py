"""Requests that wait, that are shared out, and that their brand may not make: a real router and scripted workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeAlias

import grpc
import pytest

from looksmith.errors import error_from_rpc
from looksmith.nouns import BrandLimits, Tier
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.router import dispatch, waiting_room
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import (
    ScriptedWorker,
    dies_within_the_second_image,
    hangs,
    joined_worker,
    left,
    paints,
)
from tests.integration.router.test_generate import Painting, asked, images, kinds, painted, refusal, the_images
from tests.unit.router.router_parts import DIGEST, acme

pytestmark = pytest.mark.integration

Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"

HELD = {DIGEST: Tier.DEVICE}


async def read(call: Call, count: int) -> list[pb.GenerateResponse]:
    """The next messages."""
    messages = [await call.read() for _ in range(count)]
    return [message for message in messages if isinstance(message, pb.GenerateResponse)]


async def rest_of(call: Call) -> list[pb.GenerateResponse]:
    messages = []
    while isinstance(message := await call.read(), pb.GenerateResponse):
        messages.append(message)
    return messages


async def paints_slowly(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    async for response in paints(worker, request):
        await asyncio.sleep(0.05)
        yield response


async def test_images_are_shared_out_over_idle_workers_and_come_back_as_one(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(joined_worker(address, name, paints, HELD)) for name in ("w1", "w2")]
        responses = await painted(painting, asked(count=6))
    assert images(responses) == the_images(6)
    assert sorted(left(worker.requests[0]) for worker in workers) == [[0, 1, 2], [3, 4, 5]]
    assert sorted(worker.requests[0].pinned.portion for worker in workers) == [1, 2]
    placed = [response.placed for response in responses if response.HasField("placed")]
    assert sorted(list(each.images) for each in placed) == [[0, 1, 2], [3, 4, 5]]
    assert kinds(responses).count("finished") == 1
    assert kinds(responses)[-1] == "finished"
    finished = responses[-1].finished
    assert (finished.gpu_seconds, finished.attempts) == (3.0, 1)


async def test_a_portion_whose_worker_dies_is_painted_by_the_other_beside_its_own(
    painting: Painting, address: str
) -> None:
    async with (
        joined_worker(address, "w1", dies_within_the_second_image, HELD),
        joined_worker(address, "w2", paints_slowly, HELD) as other,
    ):
        responses = await painted(painting, asked(count=4))
    assert images(responses) == the_images(4)
    assert kinds(responses).count("image_done") == 4
    assert responses[-1].finished.attempts == 2
    assert sorted(request.pinned.portion for request in other.requests) == [1, 2]


async def test_who_waits_is_told_so_and_then_painted(
    painting: Painting, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "TOLD_EVERY_S", 0.05)
    async with joined_worker(address, "w1", hangs) as worker:
        ahead = [painting.Generate(asked(seed=number, request_id=f"ahead-{number}")) for number in range(2)]
        for call in ahead:
            await read(call, 3)
        waiting = painting.Generate(asked(), timeout=20)
        told = await read(waiting, 3)
        assert kinds(told) == ["accepted", "queued", "queued"]
        assert told[1].queued.reason == "waits for w1"
        assert told[1].queued.waited.ToTimedelta() < told[2].queued.waited.ToTimedelta()
        assert told[1].queued.HasField("expected")
        assert len(worker.requests) == 2
        worker.act = paints
        ahead[0].cancel()
        rest = await rest_of(waiting)
        ahead[1].cancel()
    assert images(rest) == the_images(1)


async def test_with_a_waiting_room_requests_wait_for_the_first_worker(
    settings: RouterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "TOLD_EVERY_S", 0.05)
    waits = settings.model_copy(update={"worker_wait_s": 20.0})
    async with router(waits, registry=acme()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = rpc.ImageGenerationServiceStub(channel).Generate(asked(), timeout=20)
        (told,) = await read(call, 1)
        assert told.queued.reason == "no worker has joined yet"
        async with joined_worker(server.address, "w1"):
            responses = await rest_of(call)
    assert images(responses) == the_images(1)


async def test_waiting_for_a_worker_ends(settings: RouterSettings) -> None:
    waits = settings.model_copy(update={"worker_wait_s": 0.3})
    async with router(waits, registry=acme()) as server, grpc.aio.insecure_channel(server.address) as channel:
        error = await refusal(rpc.ImageGenerationServiceStub(channel), asked())
    assert (error.reason, error.retry_after_s) == ("NO_WORKER", 2.0)


async def test_a_brand_that_has_used_up_its_gpu_seconds_is_told_when_to_come_back(settings: RouterSettings) -> None:
    registry = acme()
    limits = BrandLimits(max_gpu_seconds_per_minute=1.0)
    registry.brands["acme"] = replace(registry.brands["acme"], limits=limits)
    async with router(settings, registry=registry) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = rpc.ImageGenerationServiceStub(channel)
        async with joined_worker(server.address, "w1"):
            await painted(stub, asked())  # of 1.5 GPU-seconds
            error = await refusal(stub, asked(request_id="r2"))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BRAND_RATE_LIMIT")
    assert error.retry_after_s == pytest.approx(30, abs=2)


async def test_a_brand_has_so_many_jobs_waiting_and_no_more(settings: RouterSettings) -> None:
    bounded = settings.model_copy(update={"brand_max_queued_jobs": 1})
    async with router(bounded, registry=acme()) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = rpc.ImageGenerationServiceStub(channel)
        async with joined_worker(server.address, "w1", hangs):
            calls = [stub.Generate(asked(request_id=f"r{number}")) for number in range(3)]
            for call in calls:
                await call.read()
            error = await refusal(stub, asked(request_id="one too many"))
            for call in calls:
                call.cancel()
    assert (error.reason, error.metadata) == ("BRAND_QUEUE_FULL", {"brand": "acme"})
    assert error.retry_after_s


async def test_who_waits_at_a_router_that_stops_is_sent_to_another_one(settings: RouterSettings) -> None:
    patient = settings.model_copy(update={"shutdown_grace_s": 10.0})
    async with AsyncExitStack() as life:
        server = await life.enter_async_context(router(patient, registry=acme()))
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = rpc.ImageGenerationServiceStub(channel)
            async with joined_worker(server.address, "w1", hangs):
                calls = []
                for number in range(3):  # one after the other, so that the last one waits
                    calls.append(stub.Generate(asked(request_id=f"r{number}")))
                    await calls[-1].read()
                ending = asyncio.create_task(life.aclose())
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await rest_of(calls[2])
                assert error_from_rpc(ended.value).reason == "ROUTER_STOPPING"
                for call in calls[:2]:
                    call.cancel()
                await ending
