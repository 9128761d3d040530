"""Generate on a real server with a real stub; the engine is the fake one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pyexiv2
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image
from structlog.testing import capture_logs
from structlog.typing import EventDict

from looksmith.errors import DeadlineExceeded, FailedPrecondition, LooksmithError, NotFound, Unavailable
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb
from services.chassis import interceptors
from services.gpu_worker import lease, telemetry
from services.gpu_worker.client import WorkerClient
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, SnapshotEnd
from tests.unit.gpu_worker.worker_parts import FilesRegistry, content, eventually, facts
from tests.unit.registry.parts import header_for


@pytest.fixture
def registry() -> FilesRegistry:
    registry = FilesRegistry()
    for brand in ("acme", "zenith"):
        registry.publish(brand, content(brand))
    return registry


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (interceptors, lease, telemetry):
        monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    return exporter


@asynccontextmanager
async def worker(
    folder: Path, registry: FilesRegistry | FakeRegistryClient, engine: FakeEngine | None = None, **environ: str
) -> AsyncIterator[WorkerClient]:
    settings = WorkerSettings.read(
        {
            "WORKER_NAME": "w1",
            "WORKER_REGISTRY": "unused",
            "WORKER_DISK_CACHE": str(folder),
            "WORKER_SHUTDOWN_GRACE_S": "0",
            **environ,
        }
    )
    async with (
        gpu_worker(settings, registry=registry, engine=engine or FakeEngine([facts()])) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield WorkerClient(channel)


async def answers(client: WorkerClient, request: pb.GenerateRequest, **options: float) -> list[pb.GenerateResponse]:
    async with client.generate(request, timeout_s=options.get("timeout_s", 20)) as call:
        return [response async for response in call]


async def asked_until(client: WorkerClient, request: pb.GenerateRequest, kind: str, step: int = 0) -> None:
    """Asks, and leaves as soon as an answer of that kind, or of that step, has come."""
    async with client.generate(request, timeout_s=20) as call:
        async for response in call:
            if response.WhichOneof("event") == kind and response.step.step == step:
                return


def kinds(responses: list[pb.GenerateResponse]) -> list[str | None]:
    return [response.WhichOneof("event") for response in responses]


def only(responses: list[pb.GenerateResponse], kind: str) -> pb.GenerateResponse:
    (found,) = [response for response in responses if response.WhichOneof("event") == kind]
    return found


def images(responses: list[pb.GenerateResponse]) -> dict[int, bytes]:
    data: dict[int, bytes] = {}
    for response in responses:
        if response.HasField("chunk"):
            assert response.chunk.offset == len(data.get(response.chunk.image, b""))
            data[response.chunk.image] = data.get(response.chunk.image, b"") + response.chunk.data
    return data


async def test_brand_and_prompt_alone_give_a_picture_that_says_what_made_it(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    async with worker(tmp_path, registry) as client:
        responses = await answers(client, pb.GenerateRequest(brand="acme", prompt="a kite"))
    assert kinds(responses) == ["accepted", "placed", "swapped", "chunk", "image_done", "finished"]
    accepted, placed = only(responses, "accepted").accepted, only(responses, "placed").placed
    assert accepted.request_id
    assert accepted.recipe == "studio"
    assert (placed.worker, placed.reason, placed.tier, placed.attempt) == ("w1", "asked directly", pb.TIER_STORE, 1)
    done, data = only(responses, "image_done").image_done, images(responses)[0]
    assert (done.seed, done.size_bytes) == (accepted.seed, len(data))
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    finished = only(responses, "finished").finished
    assert (finished.worker, finished.engine, finished.base_digest) == ("w1", "fake", "b" * 64)
    assert [a.digest for a in finished.adapters] == [hashlib.sha256(content("acme")).hexdigest()]


async def test_two_brands_get_different_pictures_and_the_same_request_the_same_one(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    async with worker(tmp_path, registry) as client:
        one, other, again = [
            images(await answers(client, pb.GenerateRequest(brand=brand, prompt="a kite", seed=3)))[0]
            for brand in ("acme", "zenith", "acme")
        ]
    assert one == again
    assert Image.open(io.BytesIO(one)).tobytes() != Image.open(io.BytesIO(other)).tobytes()


@pytest.mark.parametrize("image_format", [pb.IMAGE_FORMAT_PNG, pb.IMAGE_FORMAT_JPEG, pb.IMAGE_FORMAT_WEBP])
async def test_every_picture_says_what_the_last_message_says_of_it_and_has_the_same_bytes_at_another_worker(
    tmp_path: Path, registry: FilesRegistry, image_format: pb.ImageFormat.ValueType
) -> None:
    request = pb.GenerateRequest(brand="acme", prompt="a kite", seed=3, count=2, image_format=image_format)
    async with worker(tmp_path / "w1", registry) as client:
        responses = await answers(client, request)
    async with worker(tmp_path / "w2", registry, WORKER_NAME="w2") as client:
        elsewhere = await answers(client, request)
    assert images(responses) == images(elsewhere)
    finished = only(responses, "finished").finished
    for done in [response.image_done for response in responses if response.HasField("image_done")]:
        with pyexiv2.ImageData(images(responses)[done.image]) as image:
            told = image.read_xmp()
        assert told["Xmp.iptcExt.DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert told["Xmp.looksmith.Seed"] == str(done.seed)
        assert told["Xmp.looksmith.Adapters"] == [adapter.digest for adapter in finished.adapters]
        assert told["Xmp.looksmith.Base"] == finished.base_digest
        assert told["Xmp.looksmith.Recipe"] == finished.recipe_digest


async def test_steps_and_previews_come_only_when_asked_for(tmp_path: Path, registry: FilesRegistry) -> None:
    request = pb.GenerateRequest(brand="acme", prompt="a kite", report_steps=True, preview_every=2, steps=4)
    async with worker(tmp_path, registry) as client:
        responses = await answers(client, request)
    assert kinds(responses)[3:8] == ["step", "step", "preview", "step", "step"]
    preview = only(responses, "preview").preview
    assert preview.step == 2
    with Image.open(io.BytesIO(preview.jpeg)) as rough:
        assert rough.format == "JPEG" and b"trainedAlgorithmicMedia" in rough.info["xmp"]


async def test_images_the_caller_holds_are_neither_painted_nor_sent(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = FakeEngine([facts()])
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=4, seed=10, images_done=[0, 2], steps=2)
    async with worker(tmp_path, registry, engine) as client:
        responses = await answers(client, request)
    done = [response.image_done for response in responses if response.HasField("image_done")]
    assert [(d.image, d.seed) for d in done] == [(1, 11), (3, 13)]
    assert engine.steps_done == 4


def counts(reader: InMemoryMetricReader) -> dict[str, dict[tuple[str, ...], float]]:
    """Counters by name, each by the values of its attributes."""
    data = reader.get_metrics_data()
    assert data
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        points = [point for point in metric.data.data_points if isinstance(point, NumberDataPoint)]
        found[metric.name] = {tuple(map(str, (p.attributes or {}).values())): p.value for p in points}
    return found


async def test_a_blocked_picture_is_told_in_its_place_without_bytes_and_counted_apart(
    tmp_path: Path, registry: FilesRegistry, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    for name in ("images_painted", "images_blocked", "gpu_seconds"):
        monkeypatch.setattr(telemetry, name, meter.create_counter(name))
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=3, seed=10)
    async with worker(tmp_path, registry, FakeEngine([facts()], blocks=lambda _job, image: image == 1)) as client:
        responses = await answers(client, request)
        await eventually(lambda: any(s.name == "worker.generate" for s in spans.get_finished_spans()))
    assert kinds(responses)[3:] == ["chunk", "image_done", "image_blocked", "chunk", "image_done", "finished"]
    assert only(responses, "image_blocked").image_blocked == pb.ImageBlocked(image=1, seed=11, reason="SAFETY_CHECKER")
    assert set(images(responses)) == {0, 2}
    told = counts(reader)
    assert (told["images_painted"], told["images_blocked"]) == (
        {("acme",): 2},
        {("studio", "SAFETY_CHECKER"): 1},
    )
    charged = only(responses, "finished").finished.gpu_seconds
    assert told["gpu_seconds"] == {("acme",): charged} and charged > 0
    root = next(span for span in spans.get_finished_spans() if span.name == "worker.generate")
    (event,) = root.events
    assert (event.name, dict(event.attributes or {})) == (
        "image.blocked",
        {"looksmith.image": 1, "looksmith.reason": "SAFETY_CHECKER"},
    )


async def test_a_request_all_of_whose_pictures_are_blocked_finishes_as_any_other(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=2)
    async with worker(tmp_path, registry, FakeEngine([facts()], blocks=lambda _job, _image: True)) as client:
        responses = await answers(client, request)
    assert kinds(responses) == ["accepted", "placed", "swapped", "image_blocked", "image_blocked", "finished"]


async def test_bytes_are_left_out_when_asked_but_the_digest_is_theirs(tmp_path: Path, registry: FilesRegistry) -> None:
    async with worker(tmp_path, registry) as client:
        shown = await answers(client, pb.GenerateRequest(brand="acme", prompt="a kite", seed=1))
        hidden = await answers(client, pb.GenerateRequest(brand="acme", prompt="a kite", seed=1, omit_image_bytes=True))
    assert images(hidden) == {0: b""}
    assert only(hidden, "image_done").image_done.sha256 == only(shown, "image_done").image_done.sha256


async def test_large_images_come_in_chunks_of_256_kib(
    tmp_path: Path, registry: FilesRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bytes(600 * 1024)
    monkeypatch.setattr("services.gpu_worker.generation.encode", lambda *_: file)
    async with worker(tmp_path, registry) as client:
        responses = await answers(client, pb.GenerateRequest(brand="acme", prompt="a kite"))
    assert [len(r.chunk.data) for r in responses if r.HasField("chunk")] == [262144, 262144, 90112]
    assert images(responses)[0] == file


async def test_what_a_router_pinned_is_painted_without_asking_the_registry(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = hashlib.sha256(content("acme")).hexdigest()
    adapter = adapter_pb2.PinnedAdapter(adapter="look", version=9, digest=digest, weight=0.5)
    pinned = pb.Pinned(adapters=[adapter], recipe_digest="s" * 64, final_prompt="kite!", attempt=2, router="r1")
    async with worker(tmp_path, registry) as client:
        responses = await answers(client, pb.GenerateRequest(brand="acme", prompt="a kite", pinned=pinned))
    assert registry.calls == 0
    placed, finished = only(responses, "placed").placed, only(responses, "finished").finished
    assert (placed.reason, placed.attempt) == ("placed by r1", 2)
    assert (finished.final_prompt, finished.attempts) == ("kite!", 2)
    assert list(finished.adapters) == [adapter]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.GenerateRequest(brand="nobody", prompt="a kite"), "BRAND_NOT_FOUND"),
        (pb.GenerateRequest(brand="acme", prompt=" "), "PROMPT_EMPTY"),
        (pb.GenerateRequest(brand="acme", prompt="word " * 40), "PROMPT_TOO_LONG"),
        (pb.GenerateRequest(brand="acme", prompt="a kite", steps=3), "STEPS_UNSUPPORTED"),
        (pb.GenerateRequest(brand="acme", prompt="a kite", recipe="flux"), "RECIPE_NOT_FOUND"),
    ],
)
async def test_refusals_name_their_reason(
    tmp_path: Path, registry: FilesRegistry, request_: pb.GenerateRequest, reason: str
) -> None:
    async with worker(tmp_path, registry) as client:
        with pytest.raises(LooksmithError) as caught:
            await answers(client, request_)
    assert caught.value.reason == reason


class Gated(FakeEngine):
    """Does a step for each that a test allows."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        super().__init__([facts()], costs=Costs(step=1), sleep=self._wait)

    def _wait(self, seconds: float) -> None:
        if seconds:
            self.gate.acquire(timeout=5)


async def steps_after_the_end_of_a_call(engine: Gated, lines: list[EventDict]) -> int:
    """Steps that the engine still does once the server knows that nobody waits any more."""
    await eventually(lambda: any(line["event"] == "call.done" for line in lines))
    before = engine.steps_done
    engine.gate.release(1000)
    await eventually(lambda: engine._running is None)
    return engine.steps_done - before


async def test_cancelled_call_stops_within_one_step(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = Gated()
    engine.gate.release(2)
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=16, steps=8, report_steps=True)
    async with worker(tmp_path, registry, engine) as client:
        with capture_logs() as lines:
            await asked_until(client, request, "step", 2)
            assert await steps_after_the_end_of_a_call(engine, lines) <= 1
    assert engine.steps_done <= 3


async def test_expired_call_stops_within_one_step(tmp_path: Path, registry: FilesRegistry) -> None:
    engine = Gated()
    engine.gate.release(2)
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=16, steps=8)
    async with worker(tmp_path, registry, engine) as client:
        with capture_logs() as lines:
            with pytest.raises(DeadlineExceeded):
                await answers(client, request, timeout_s=0.5)
            assert await steps_after_the_end_of_a_call(engine, lines) <= 1
    assert engine.steps_done <= 3


async def test_retry_under_the_same_id_ends_the_first_try_and_paints_what_is_missing(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = Gated()
    request = pb.GenerateRequest(brand="acme", prompt="a kite", count=2, steps=1, request_id="r1")
    async with worker(tmp_path, registry, engine) as client:
        first = asyncio.create_task(answers(client, request))
        await eventually(lambda: engine._running)
        request.images_done.append(0)
        retry = asyncio.create_task(answers(client, request))
        await asyncio.wait([first])
        with pytest.raises(LooksmithError) as caught:
            first.result()
        assert caught.value.reason == "SUPERSEDED"
        engine.gate.release(10)
        assert [r.image_done.image for r in await retry if r.HasField("image_done")] == [1]


async def acme(*versions: bytes) -> FakeRegistryClient:
    """A registry with acme/look in these versions, the first in production."""
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
    for data in versions:
        await registry.publish(header_for(data, adapter="look", family="studio"), [data])
    return registry


def pinned(data: bytes, *, version: int = 1, **fields: Any) -> pb.GenerateRequest:  # noqa: ANN401  # of a request
    """What a router sends that resolved acme/look to this version."""
    digest = hashlib.sha256(data).hexdigest()
    adapter = adapter_pb2.PinnedAdapter(adapter="look", version=version, digest=digest, weight=1)
    pin = pb.Pinned(adapters=[adapter], recipe_digest="s" * 64, final_prompt="kite!", attempt=1, router="r1")
    return pb.GenerateRequest(brand="acme", prompt="a kite", pinned=pin, **fields)


async def refused(client: WorkerClient, request: pb.GenerateRequest) -> LooksmithError:
    with pytest.raises(LooksmithError) as caught:
        await answers(client, request)
    return caught.value


async def until_refused(client: WorkerClient, request: pb.GenerateRequest) -> LooksmithError:
    """What the worker answers once it has heard that the request must not be painted."""
    async with asyncio.timeout(2):
        while True:
            try:
                await answers(client, request)
            except LooksmithError as error:
                return error


async def test_a_withdrawn_version_is_refused_as_the_registry_says_whoever_pinned_it_and_however(
    tmp_path: Path,
) -> None:
    data = content("acme")
    registry = await acme(data)
    async with worker(tmp_path, registry) as client:
        assert kinds(await answers(client, pinned(data)))[-1] == "finished"
        await registry.yank("acme", "look", 1, force=True, reason="the old logo")
        uses = (
            adapter_pb2.AdapterUse(adapter="look"),
            adapter_pb2.AdapterUse(adapter="look", version=1),
            adapter_pb2.AdapterUse(adapter="look", digest=hashlib.sha256(data).hexdigest()),
        )
        asked = [pb.GenerateRequest(brand="acme", prompt="a kite", adapters=[use]) for use in uses]
        said = [await until_refused(client, pinned(data)), *[await refused(client, request) for request in asked]]
    assert {type(error) for error in said} == {FailedPrecondition}
    assert [(error.reason, error.metadata) for error in said] == [("ADAPTER_YANKED", {"adapter": "acme/look@1"})] * 4
    async with worker(tmp_path, registry) as client:  # one that was not there when it happened
        assert (await refused(client, pinned(data))).reason == "ADAPTER_YANKED"


async def test_a_version_that_was_yanked_without_force_is_painted_where_a_router_pinned_it_before(
    tmp_path: Path,
) -> None:
    old, new = content("old"), content("new")
    registry = await acme(old, new)
    await registry.yank("acme", "look", 1, replacement=2, reason="the old logo")
    async with worker(tmp_path, registry) as client:
        assert kinds(await answers(client, pinned(old)))[-1] == "finished"
        use = adapter_pb2.AdapterUse(adapter="look", version=1)
        error = await refused(client, pb.GenerateRequest(brand="acme", prompt="a kite", adapters=[use]))
    assert error.reason == "ADAPTER_YANKED"


async def test_a_withdrawn_version_ends_requests_under_way_after_the_picture_that_has_begun(tmp_path: Path) -> None:
    old, new = content("old"), content("new")
    registry, engine = await acme(old, new), Gated()
    told: dict[str, list[pb.GenerateResponse]] = {"old": [], "waiting": [], "new": []}

    async def ask(client: WorkerClient, name: str, request: pb.GenerateRequest) -> None:
        async with client.generate(request, timeout_s=20) as call:
            async for response in call:
                told[name].append(response)

    async with worker(tmp_path, registry, engine) as client:
        engine.gate.release(6)  # a picture, and half of the next one
        running = asyncio.create_task(ask(client, "old", pinned(old, count=8, report_steps=True)))
        await eventually(lambda: [*kinds(told["old"])].count("step") == 6)
        waiting = asyncio.create_task(ask(client, "waiting", pinned(old, count=2)))
        await eventually(lambda: "placed" in kinds(told["waiting"]))
        beside = asyncio.create_task(ask(client, "new", pinned(new, version=2)))
        await registry.yank("acme", "look", 1, force=True, reason="the old logo")
        with pytest.raises(FailedPrecondition) as caught:
            await waiting
        assert caught.value.reason == "ADAPTER_YANKED"
        assert not running.done()
        engine.gate.release(100)
        with pytest.raises(FailedPrecondition) as caught:
            await running
        assert (caught.value.reason, caught.value.metadata) == ("ADAPTER_YANKED", {"adapter": "acme/look@1"})
        await beside
    assert [r.image_done.image for r in told["old"] if r.HasField("image_done")] == [0, 1]
    assert set(images(told["old"])) == {0, 1}
    assert kinds(told["waiting"]) == ["accepted", "placed"]
    assert kinds(told["new"])[-1] == "finished"


async def test_an_erased_brand_leaves_the_worker_and_ends_its_requests_but_those_of_no_other_brand(
    tmp_path: Path,
) -> None:
    data = content("shared")
    registry, engine = await acme(data), Gated()
    await registry.put_brand(Brand("zenith", default_adapters=(AdapterUse("look"),)))
    await registry.publish(header_for(data, brand="zenith", adapter="look", family="studio"), [data])
    digest = hashlib.sha256(data).hexdigest()
    async with worker(tmp_path, registry, engine) as client:
        engine.gate.release(1)
        other = asyncio.create_task(answers(client, pb.GenerateRequest(brand="zenith", prompt="a kite", count=2)))
        await eventually(lambda: engine._running)
        mine = asyncio.create_task(answers(client, pinned(data)))
        await registry.delete_brand("acme", confirm_name="acme")
        with pytest.raises(NotFound) as caught:
            await mine
        assert caught.value.reason == "BRAND_NOT_FOUND"
        assert (tmp_path / digest).exists(), "the other brand's job is using it"
        engine.gate.release(100)
        assert kinds(await other)[-1] == "finished"
        await eventually(lambda: not (tmp_path / digest).exists())
        await eventually(lambda: not engine._placed)
        assert engine.kept == []
        assert (await refused(client, pinned(data))).reason == "BRAND_NOT_FOUND"
        again = await answers(client, pb.GenerateRequest(brand="zenith", prompt="a kite"))
        assert only(again, "swapped").swapped.tier == pb.TIER_STORE, "fetched anew"
        assert kinds(again)[-1] == "finished"


async def test_a_worker_paints_on_with_what_it_knows_while_the_registry_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = content("old"), content("new")
    registry = await acme(old, new)
    await registry.yank("acme", "look", 1, force=True, reason="the old logo")
    lost = asyncio.Event()
    watch = registry.watch

    async def watched_until_lost(*, cursor: str = "") -> AsyncIterator[object]:
        if lost.is_set():
            raise Unavailable("nobody there")
        async for message in watch(cursor=cursor):
            yield message
            if isinstance(message, SnapshotEnd):
                await lost.wait()
                raise Unavailable("it went away")

    monkeypatch.setattr(registry, "watch", watched_until_lost)
    async with worker(tmp_path, registry) as client:
        assert kinds(await answers(client, pinned(new, version=2)))[-1] == "finished"
        lost.set()
        registry.store.reachable = False
        assert kinds(await answers(client, pinned(new, version=2)))[-1] == "finished"
        assert (await refused(client, pinned(old))).reason == "ADAPTER_YANKED"


async def test_other_content_under_an_id_that_is_being_painted_is_refused(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    engine = Gated()
    async with worker(tmp_path, registry, engine) as client:
        request = pb.GenerateRequest(brand="acme", prompt="a kite", request_id="r1")
        first = asyncio.create_task(answers(client, request))
        await eventually(lambda: engine._running)
        with pytest.raises(LooksmithError) as caught:
            await answers(client, pb.GenerateRequest(brand="acme", prompt="a boat", request_id="r1"))
        assert caught.value.reason == "REQUEST_ID_REUSED"
        engine.gate.release(10)
        assert kinds(await first)[-1] == "finished"


def covered(spans: list[ReadableSpan], of: ReadableSpan) -> float:
    """Share of a span's time in which at least one of the others runs."""
    reached, total = of.start_time or 0, 0
    start_time, end_time = of.start_time or 0, of.end_time or 0
    for start, end in sorted((s.start_time or 0, s.end_time or 0) for s in spans):
        total += max(0, min(end, end_time) - max(start, reached))
        reached = max(reached, end)
    return total / (end_time - start_time)


async def test_spans_cover_the_call_and_tell_swap_and_denoise(
    tmp_path: Path, registry: FilesRegistry, spans: InMemorySpanExporter
) -> None:
    engine = FakeEngine([facts()], costs=Costs(copy=0.05, prompt=0.05, step=0.1, decode=0.05))
    request = pb.GenerateRequest(brand="acme", prompt="a secret kite", count=2, steps=4)
    async with worker(tmp_path, registry, engine) as client:
        await answers(client, request)
        await eventually(lambda: any(s.name == "worker.generate" for s in spans.get_finished_spans()))
        found = list(spans.get_finished_spans())
    root = next(span for span in found if span.name == "worker.generate")
    children = [span for span in found if span.parent and root.context and span.parent.span_id == root.context.span_id]
    names = [span.name for span in children]
    assert set(names) == {
        "settle", "wait", "adapter.swap", "prompt.encode", "denoise", "vae.decode", "image.encode", "send",
    }  # fmt: skip
    assert (names.count("adapter.swap"), names.count("denoise")) == (1, 2)
    assert covered(children, root) >= 0.95
    swap = next(span for span in children if span.name == "adapter.swap")
    assert swap.attributes and swap.attributes["looksmith.tier"] == "store"
    assert swap.attributes["looksmith.bytes"] == 100
    under = [
        span.name for span in found if span.parent and swap.context and span.parent.span_id == swap.context.span_id
    ]
    assert (under[0], under[-2:]) == ("fetch", ["copy", "bind"])
    assert set(under[1:-2]) == {"verify", "compile"}, "side by side"
    denoise = next(span for span in children if span.name == "denoise")
    assert denoise.attributes and dict(denoise.attributes) == {"looksmith.steps": 4, "looksmith.batch": 1}
    assert not any("secret" in str(value) for span in found for value in (span.attributes or {}).values())


async def test_swap_and_denoise_are_told_also_where_there_was_nothing_to_do(
    tmp_path: Path, registry: FilesRegistry, spans: InMemorySpanExporter
) -> None:
    request = pb.GenerateRequest(brand="acme", prompt="a kite", no_adapters=True, images_done=[0])
    async with worker(tmp_path, registry) as client:
        responses = await answers(client, request)
    assert kinds(responses) == ["accepted", "placed", "swapped", "finished"]
    for name in ("adapter.swap", "denoise"):
        (span,) = [span for span in spans.get_finished_spans() if span.name == name]
        assert span.start_time == span.end_time


async def test_cancelled_call_has_a_span_that_says_so(
    tmp_path: Path, registry: FilesRegistry, spans: InMemorySpanExporter
) -> None:
    engine = Gated()
    async with worker(tmp_path, registry, engine) as client:
        await asked_until(client, pb.GenerateRequest(brand="acme", prompt="a kite"), "swapped")
        await eventually(lambda: any(s.name == "worker.generate" for s in spans.get_finished_spans()))
        engine.gate.release(10)
    root = next(s for s in spans.get_finished_spans() if s.name == "worker.generate")
    assert root.attributes and root.attributes["rpc.response.status_code"] == "CANCELLED"
