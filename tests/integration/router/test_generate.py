"""A caller, a router and scripted workers over real gRPC: who paints, who takes over, and what the caller sees."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import TypeAlias

import grpc
import pytest

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.nouns import Tier
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis.painting import derived_seed
from services.router.consistent_hash import rank
from tests.integration.router.scripted_workers import (
    Act,
    ScriptedWorker,
    breaks,
    dies_before_the_first_image,
    dies_within_the_second_image,
    hangs,
    is_full,
    joined_worker,
    paints,
    picture,
    refuses,
)
from tests.unit.router.router_parts import DIGEST

pytestmark = pytest.mark.integration

Painting: TypeAlias = "rpc.ImageGenerationServiceAsyncStub"  # the stubs have it for type checkers only
HOME, SECOND, THIRD = rank("acme", dict.fromkeys(("w1", "w2", "w3"), 1.0))


def asked(**changes: object) -> pb.GenerateRequest:
    fields: dict[str, object] = {"brand": "acme", "prompt": "a red kite", "request_id": "r1"}
    return pb.GenerateRequest(**fields | changes)  # type: ignore[arg-type]  # fields by name


async def painted(stub: Painting, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return [response async for response in stub.Generate(request, timeout=20)]


async def refusal(stub: Painting, request: pb.GenerateRequest) -> LooksmithError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await painted(stub, request)
    return error_from_rpc(caught.value)


def kinds(responses: Iterable[pb.GenerateResponse]) -> list[str]:
    return [response.WhichOneof("event") or "" for response in responses]


def images(responses: Iterable[pb.GenerateResponse]) -> dict[int, bytes]:
    """What a caller holds in the end; checks that chunks follow each other and that hashes are right."""
    held: defaultdict[int, bytes] = defaultdict(bytes)
    for response in responses:
        match response.WhichOneof("event"):
            case "chunk":
                assert response.chunk.offset == len(held[response.chunk.image])
                held[response.chunk.image] += response.chunk.data
            case "image_restarted":
                held[response.image_restarted.image] = b""
            case "image_done":
                done = response.image_done
                assert hashlib.sha256(held[done.image]).hexdigest() == done.sha256
    return held


def the_images(count: int) -> dict[int, bytes]:
    seed = derived_seed("r1")
    return {i: picture(i, seed + i) for i in range(count)}


async def joined(stack: AsyncExitStack, address: str, acts: Mapping[str, Act]) -> dict[str, ScriptedWorker]:
    return {name: await stack.enter_async_context(joined_worker(address, name, act)) for name, act in acts.items()}


async def test_request_is_painted_at_home_and_comes_back_untouched(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, {HOME: paints, SECOND: paints})
        responses = await painted(painting, asked(count=2))
    assert kinds(responses) == [
        "accepted",
        "placed",
        "swapped",
        "chunk",
        "chunk",
        "image_done",
        "chunk",
        "chunk",
        "image_done",
        "finished",
    ]
    accepted, placed, finished = responses[0].accepted, responses[1].placed, responses[-1].finished
    assert (accepted.request_id, accepted.seed, accepted.recipe) == ("r1", derived_seed("r1"), "studio")
    assert [(a.version, a.digest) for a in accepted.adapters] == [(1, DIGEST)]
    assert (placed.worker, placed.reason, placed.tier) == (HOME, "home, adapter in the store", pb.TIER_STORE)
    assert images(responses) == the_images(2)
    assert (finished.worker, finished.engine, finished.gpu_seconds, finished.attempts) == (HOME, "scripted", 1.5, 1)
    assert finished.timings.denoise.seconds == 2
    assert finished.timings.total.ToNanoseconds() > finished.timings.queue.ToNanoseconds() >= 0
    assert not workers[SECOND].requests


async def test_worker_gets_all_that_was_settled(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1") as worker:
        await painted(painting, asked(report_steps=True))
    (got,) = worker.requests
    assert (got.seed, got.steps, got.width, got.height, got.recipe) == (derived_seed("r1"), 4, 64, 64, "studio")
    assert (got.request_id, got.report_steps, got.adapters[0].digest) == ("r1", True, DIGEST)
    assert (got.pinned.router, got.pinned.attempt, got.pinned.adapters[0].digest) == ("r1", 1, DIGEST)
    assert got.pinned.final_prompt == "a red kite, in acme's look"
    assert worker.time_left and 15 < worker.time_left < 21  # grpc rounds timeouts up


@pytest.mark.parametrize("failing", [dies_before_the_first_image, breaks])
async def test_worker_that_fails_before_the_first_image_is_replaced(
    painting: Painting, address: str, failing: Act
) -> None:
    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, {HOME: failing, SECOND: paints})
        responses = await painted(painting, asked())
    assert [(r.placed.worker, r.placed.attempt) for r in responses if r.HasField("placed")] == [(HOME, 1), (SECOND, 2)]
    assert kinds(responses).count("accepted") == 1
    assert images(responses) == the_images(1)
    assert responses[-1].finished.attempts == 2
    assert workers[SECOND].requests[0].pinned.attempt == 2
    assert workers[SECOND].requests[0].seed == workers[HOME].requests[0].seed


async def test_images_that_the_caller_holds_are_not_painted_again(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        acts = {HOME: dies_within_the_second_image, SECOND: breaks, THIRD: paints}
        workers = await joined(stack, address, acts)
        responses = await painted(painting, asked(count=3))
    assert [r.image_restarted.image for r in responses if r.HasField("image_restarted")] == [1]
    assert list(workers[THIRD].requests[0].images_done) == [0]
    assert [r.image_done.image for r in responses if r.HasField("image_done")] == [0, 1, 2]
    assert images(responses) == the_images(3)


async def test_request_that_fails_three_workers_fails_as_the_last_one_said(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, dict.fromkeys(("w1", "w2", "w3", "w4"), breaks))
        error = await refusal(painting, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "DEVICE_LOST")
    assert sorted(len(worker.requests) for worker in workers.values()) == [0, 1, 1, 1]


async def test_worker_that_keeps_failing_is_left_alone(
    painting: Painting, fleet: fleet_pb2_grpc.FleetServiceAsyncStub, address: str
) -> None:
    async def asks(act: Act, times: int) -> None:
        workers[HOME].act = act
        for _ in range(times):
            await painted(painting, pb.GenerateRequest(brand="acme", prompt="x"))

    async def state() -> int:
        return (await fleet.GetWorker(fleet_pb2.GetWorkerRequest(name=HOME))).worker.state

    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, {HOME: paints, SECOND: paints})
        await asks(breaks, 2)
        await asks(paints, 1)  # begins the count anew
        await asks(breaks, 2)
        assert await state() == fleet_pb2.WORKER_STATE_READY
        await asks(breaks, 2)
        assert await state() == fleet_pb2.WORKER_STATE_EJECTED
        assert len(workers[HOME].requests) == 6  # the last one never came to it


async def test_only_worker_s_failure_is_told_as_it_was(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", dies_before_the_first_image):
        error = await refusal(painting, asked())
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert (error.reason, error.retry_after_s) == ("WORKER_LOST", 0.5)


async def test_request_s_own_fault_is_not_tried_elsewhere(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, {HOME: refuses, SECOND: paints})
        error = await refusal(painting, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert error.violations[0].field == "prompt"
    assert not workers[SECOND].requests


async def test_no_worker_is_an_answer_at_once(painting: Painting) -> None:
    error = await refusal(painting, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
    assert error.retry_after_s


async def test_fleet_that_is_full_is_told_as_the_last_worker_told_it(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = await joined(stack, address, {HOME: is_full, SECOND: is_full})
        error = await refusal(painting, asked())
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WORKER_FULL")
    assert error.retry_after_s == 2.5
    assert [len(worker.requests) for worker in workers.values()] == [1, 1]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (asked(recipe="oils"), grpc.StatusCode.NOT_FOUND, "RECIPE_NOT_FOUND"),
        (pb.GenerateRequest(brand="nobody", prompt="x"), grpc.StatusCode.NOT_FOUND, "BRAND_NOT_FOUND"),
        (asked(pinned=pb.Pinned(router="r9")), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (asked(steps=3), grpc.StatusCode.INVALID_ARGUMENT, "STEPS_UNSUPPORTED"),
        (pb.GenerateRequest(brand="acme"), grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_EMPTY"),
    ],
)
async def test_request_that_cannot_be_painted_is_refused_by_reason(
    painting: Painting, address: str, request_: pb.GenerateRequest, code: grpc.StatusCode, reason: str
) -> None:
    async with joined_worker(address, "w1") as worker:
        error = await refusal(painting, request_)
    assert (error.code, error.reason) == (code, reason)
    assert not worker.requests


async def test_request_id_is_made_up_where_there_is_none(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1"):
        answers = [await painted(painting, pb.GenerateRequest(brand="acme", prompt="x")) for _ in range(2)]
    first, second = (answer[0].accepted for answer in answers)
    assert len(first.request_id) == 32
    assert (first.request_id, first.seed) != (second.request_id, second.seed)


async def test_reused_request_id_is_refused(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1"):
        await painted(painting, asked())
        error = await refusal(painting, asked(steps=1))
        again = await painted(painting, asked(images_done=[0]))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert kinds(again) == ["accepted", "placed", "swapped", "finished"]


async def test_retry_ends_the_first_try_and_its_work(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        first = painting.Generate(asked(), timeout=20)
        for _ in range(3):
            await first.read()
        worker.act = paints
        second = await painted(painting, asked())
        await asyncio.wait_for(worker.stopped.wait(), 5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first.read()
    assert error_from_rpc(caught.value).reason == "REQUEST_SUPERSEDED"
    assert images(second) == the_images(1)


async def test_adapter_on_a_device_draws_the_request_there(
    painting: Painting, fleet: fleet_pb2_grpc.FleetServiceAsyncStub, address: str
) -> None:
    held = {DIGEST: Tier.DEVICE}
    async with joined_worker(address, HOME), joined_worker(address, SECOND, residency=held):
        explained = await fleet.ExplainPlacement(
            fleet_pb2.ExplainPlacementRequest(request=pb.GenerateRequest(brand="acme"))
        )
        responses = await painted(painting, asked())
    assert responses[1].placed.worker == explained.placed.worker == SECOND
    assert responses[1].placed.tier == explained.placed.tier == pb.TIER_DEVICE
    assert responses[1].placed.reason == "sooner than home, adapter on device"
    assert [c.worker for c in explained.candidates] == [SECOND, HOME]
    assert explained.candidates[1].adapter_seconds == 1.0
    assert [a.digest for a in explained.adapters] == [DIGEST]
