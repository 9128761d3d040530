"""Images that a safety checker blocks, over real streams: told once, never painted again, and no image on any bill."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from looksmith.client import Blocked, Looksmith
from looksmith.nouns import Tier
from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.engine.fake import FakeEngine
from services.router import metrics
from tests.integration.router.real_worker import router_and_worker
from tests.integration.router.scripted_workers import (
    blocks_odd_images,
    blocks_the_second_image_and_dies_within_the_third,
    breaks,
    joined_worker,
    left,
    paints,
)
from tests.integration.router.test_generate import (
    HOME,
    SECOND,
    THIRD,
    Painting,
    asked,
    images,
    joined,
    kinds,
    painted,
    the_images,
)
from tests.unit.gpu_worker.worker_parts import FilesRegistry, content, facts
from tests.unit.router.router_parts import DIGEST

pytestmark = pytest.mark.integration

HELD = {DIGEST: Tier.DEVICE}


def blocked(responses: list[pb.GenerateResponse]) -> list[int]:
    return [response.image_blocked.image for response in responses if response.HasField("image_blocked")]


async def test_a_blocked_image_is_passed_on_and_the_request_finishes(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", blocks_odd_images):
        responses = await painted(painting, asked(count=2))
    assert kinds(responses)[2:] == ["swapped", "chunk", "chunk", "image_done", "image_blocked", "finished"]
    told = responses[-2].image_blocked
    assert (told.image, told.seed, told.reason) == (1, responses[0].accepted.seed + 1, "SAFETY_CHECKER")


async def test_a_blocked_image_is_painted_by_nobody_else_once_its_worker_is_lost(
    painting: Painting, address: str
) -> None:
    async with AsyncExitStack() as stack:
        acts = {HOME: blocks_the_second_image_and_dies_within_the_third, SECOND: breaks, THIRD: paints}
        workers = await joined(stack, address, acts)
        responses = await painted(painting, asked(count=4))
    assert [list(workers[name].requests[0].images_done) for name in (SECOND, THIRD)] == [[0, 1], [0, 1]]
    assert blocked(responses) == [1]
    assert images(responses) == {image: data for image, data in the_images(4).items() if image != 1}
    assert [r.image_restarted.image for r in responses if r.HasField("image_restarted")] == [2]
    assert responses[-1].finished.attempts == 3


async def test_portions_tell_what_they_blocked_once_each(painting: Painting, address: str) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(joined_worker(address, name, blocks_odd_images, HELD))
            for name in ("w1", "w2")
        ]
        responses = await painted(painting, asked(count=6))
    assert sorted(left(worker.requests[0]) for worker in workers) == [[0, 1, 2], [3, 4, 5]]
    assert sorted(blocked(responses)) == [1, 3, 5]
    assert sorted(images(responses)) == [0, 2, 4]
    assert kinds(responses)[-1] == "finished"


async def test_the_caller_s_own_retry_may_name_a_blocked_image_as_done(painting: Painting, address: str) -> None:
    async with joined_worker(address, "w1", blocks_odd_images) as worker:
        await painted(painting, asked(count=2))
        again = await painted(painting, asked(count=2, images_done=[1]))
    assert left(worker.requests[1]) == [0]
    assert blocked(again) == []


async def test_usage_counts_the_gpu_seconds_of_a_blocked_image_and_no_image(
    painting: Painting,
    fleet: fleet_pb2_grpc.FleetServiceAsyncStub,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    spans: InMemorySpanExporter,
) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    for name in ("images", "images_blocked"):
        monkeypatch.setattr(metrics, name, meter.create_counter(name))
    async with joined_worker(address, "w1", blocks_odd_images):
        responses = await painted(painting, asked(count=3))
        (used,) = (await fleet.GetUsage(fleet_pb2.GetUsageRequest())).usage
    assert (used.images, used.gpu_seconds) == (2, 1.5)
    assert responses[-1].finished.gpu_seconds == 1.5
    data = reader.get_metrics_data()
    assert data
    points = {m.name: m.data.data_points for m in data.resource_metrics[0].scope_metrics[0].metrics}
    told = {
        name: [(dict(p.attributes or {}), p.value) for p in each if isinstance(p, NumberDataPoint)]
        for name, each in points.items()
    }
    assert told == {
        "images": [({"brand": "acme"}, 2)],
        "images_blocked": [({"recipe": "studio", "reason": "SAFETY_CHECKER"}, 1)],
    }
    attempt = next(span for span in spans.get_finished_spans() if span.name == "attempt")
    (event,) = attempt.events
    assert (event.name, dict(event.attributes or {})) == (
        "image.blocked",
        {"looksmith.image": 1, "looksmith.reason": "SAFETY_CHECKER"},
    )


async def test_the_client_gets_what_is_left_and_a_word_for_what_is_not(address: str) -> None:
    async with joined_worker(address, "w1", blocks_odd_images), Looksmith([address]) as client:
        painting = await client.paint(asked(count=3, seed=7))
    assert [image.index for image in painting.images] == [0, 2]
    assert painting.blocked == (Blocked(1, 8, "SAFETY_CHECKER"),)


async def test_what_a_real_worker_s_checker_blocks_reaches_the_caller_through_the_router(tmp_path: Path) -> None:
    registry = FilesRegistry()
    registry.publish("acme", content("look"))
    engine = FakeEngine([facts()], blocks=lambda _job, image: image < 2)
    async with router_and_worker(tmp_path, registry, engine) as (front, _), Looksmith([front]) as client:
        some = await client.paint(pb.GenerateRequest(brand="acme", prompt="a kite", count=3, seed=1))
        none = await client.paint(pb.GenerateRequest(brand="acme", prompt="a kite", count=2, seed=1))
    assert ([i.index for i in some.images], [b.index for b in some.blocked]) == ([2], [0, 1])
    assert ([i.index for i in none.images], [b.index for b in none.blocked]) == ([], [0, 1])
    assert none.finished.worker == "w1"
