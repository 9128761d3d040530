"""How a stream through the router ends and how fast it runs: cancelled, expired, slowed down by its caller, traced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.router import watchdog
from services.router.compose import router
from services.router.consistent_hash import rank
from services.router.settings import RouterSettings
from tests.integration.router.scripted_workers import (
    CHUNK,
    ScriptedWorker,
    breaks,
    chunks,
    hangs,
    joined_worker,
)
from tests.unit.router.router_parts import acme

pytestmark = pytest.mark.integration

Painting: TypeAlias = "rpc.ImageGenerationServiceAsyncStub"  # the stubs have it for type checkers only
KITE = pb.GenerateRequest(brand="acme", prompt="a red kite", request_id="r1")


async def test_caller_s_cancel_stops_the_worker(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        call = painting.Generate(KITE)
        for _ in range(3):
            await call.read()
        assert not worker.stopped.is_set()
        call.cancel()
        await asyncio.wait_for(worker.stopped.wait(), 5)


async def test_cancel_of_a_stalled_caller_stops_the_worker(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", floods) as worker:
        call = painting.Generate(KITE)
        await call.read()
        await level(worker)
        call.cancel()
        await asyncio.wait_for(worker.stopped.wait(), 5)


async def test_caller_s_deadline_stops_the_worker(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in painting.Generate(KITE, timeout=0.5)]
        await asyncio.wait_for(worker.stopped.wait(), 5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert worker.time_left is not None and 0 < worker.time_left < 0.6


async def test_request_without_a_deadline_gets_the_router_s(settings: RouterSettings) -> None:
    impatient = settings.model_copy(update={"default_deadline_s": 0.5})
    async with (
        router(impatient, registry=acme()) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        joined_worker(server.address, "w1", hangs) as worker,
    ):
        stub: Painting = rpc.ImageGenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Generate(KITE)]
        await asyncio.wait_for(worker.stopped.wait(), 5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_ended_request_leaves_no_work_booked(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", hangs) as worker:
        call = painting.Generate(KITE)
        for _ in range(3):
            await call.read()
        call.cancel()
        await asyncio.wait_for(worker.stopped.wait(), 5)
        worker.act = one_small_image
        again = [r async for r in painting.Generate(pb.GenerateRequest(brand="acme", prompt="x"), timeout=5)]
    assert again[1].placed.reason == "home, adapter in the store"  # "on its way" while the first job was booked


async def one_small_image(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    yield chunks(0, b"picture")[0]
    yield pb.GenerateResponse(finished=pb.Finished(worker=worker.name))


PIECES = 200  # 50 MiB


async def floods(worker: ScriptedWorker, request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateResponse]:
    for i in range(PIECES):
        yield pb.GenerateResponse(chunk=pb.ImageChunk(image=0, offset=i * CHUNK, data=bytes([i]) * CHUNK))
    yield pb.GenerateResponse(finished=pb.Finished(worker=worker.name))


async def test_stalled_caller_stops_the_worker_s_stream(address: str) -> None:
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", CHUNK))
    async with (
        grpc.aio.insecure_channel(address, options=small_window) as channel,
        joined_worker(address, "w1", floods) as worker,
    ):
        stub: Painting = rpc.ImageGenerationServiceStub(channel)
        stream = aiter(stub.Generate(KITE, timeout=60))
        for _ in range(2):  # accepted, placed
            await anext(stream)
        sent = await level(worker)
        assert 0 < sent < 20, "the router holds what its caller does not take"
        got = [response.chunk async for response in stream if response.HasField("chunk")]
    assert [chunk.offset for chunk in got] == [i * CHUNK for i in range(PIECES)]
    assert all(chunk.data == bytes([i]) * CHUNK for i, chunk in enumerate(got))


async def test_stalled_callers_keep_no_room_from_others(
    painting: Painting, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CALLER_STALLS_S", 0.3)
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", CHUNK))
    async with (
        grpc.aio.insecure_channel(address, options=small_window) as channel,
        joined_worker(address, "w1", floods) as worker,
    ):
        stub: Painting = rpc.ImageGenerationServiceStub(channel)
        stalled = [stub.Generate(pb.GenerateRequest(brand="acme", prompt=f"{i}"), timeout=60) for i in range(2)]
        for call in stalled:  # all that a worker of one row is given of a brand
            await anext(aiter(call))
        await level(worker)
        worker.act = one_small_image
        other = [r async for r in painting.Generate(pb.GenerateRequest(brand="acme", prompt="x"), timeout=5)]
        assert other[-1].HasField("finished")
        for call in stalled:
            call.cancel()


async def level(worker: ScriptedWorker) -> int:
    """How many messages the worker had sent when it had been still for half a second."""
    before, still = -1, 0
    for _ in range(200):
        await asyncio.sleep(0.05)
        still = still + 1 if worker.sent == before else 0
        before = worker.sent
        if still == 10 and before:
            return before
    raise AssertionError("the worker's stream never stood still")


async def test_request_is_one_trace_from_caller_to_worker(
    painting: Painting, address: str, spans: InMemorySpanExporter
) -> None:
    home, second = rank("acme", {"w1": 1.0, "w2": 1.0})
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with joined_worker(address, home, breaks), joined_worker(address, second, one_small_image):
        [_ async for _ in painting.Generate(KITE, metadata=[("traceparent", caller)], timeout=20)]
        found = await all_spans(spans, "looksmith.generate")
    trace = [span for span in found if span.context and f"{span.context.trace_id:032x}" == caller.split("-")[1]]
    (root,) = named(trace, "looksmith.generate")
    assert root.parent and f"{root.parent.span_id:016x}" == caller.split("-")[2]
    for name, count in {"admit": 1, "place": 2, "queue": 2, "attempt": 2}.items():
        assert [parent_of(span, trace) for span in named(trace, name)] == [root] * count
    attempts = named(trace, "attempt")
    assert [parent_of(span, trace) for span in named(trace, "worker.generate")] == attempts
    assert [[attribute(span, a) for a in ("worker", "attempt", "outcome", "tier")] for span in attempts] == [
        [home, 1, "failed", "store"],
        [second, 2, "finished", "store"],
    ]
    assert (attribute(root, "brand"), attribute(root, "request_id")) == ("acme", "r1")
    assert "kite" not in "".join(span.to_json() for span in trace)


@pytest.mark.parametrize(("timeout_s", "status"), [(20.0, "CANCELLED"), (0.5, "DEADLINE_EXCEEDED")])
async def test_stream_that_is_cut_short_says_how_in_its_span(
    painting: Painting, address: str, spans: InMemorySpanExporter, timeout_s: float, status: str
) -> None:
    async with joined_worker(address, "w1", hangs):
        call = painting.Generate(KITE, timeout=timeout_s)
        for _ in range(3):
            await call.read()
        if status == "CANCELLED":
            call.cancel()
        await all_spans(spans, "worker.generate")
        found = await all_spans(spans, "looksmith.generate")
    for name in ("looksmith.generate", "worker.generate"):
        (span,) = named(found, name)
        assert (span.attributes or {})["rpc.response.status_code"] == span.status.description == status
    (attempt,) = named(found, "attempt")
    assert not attempt.status.is_ok


async def all_spans(spans: InMemorySpanExporter, last: str) -> list[ReadableSpan]:
    """Every span in the order of beginning, once ``last`` has ended."""
    for _ in range(100):
        found = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
        if named(found, last):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{last} never ended")


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def parent_of(span: ReadableSpan, spans: list[ReadableSpan]) -> ReadableSpan | None:
    parent = span.parent.span_id if span.parent else None
    return next((other for other in spans if other.context and other.context.span_id == parent), None)


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(f"looksmith.{name}")
