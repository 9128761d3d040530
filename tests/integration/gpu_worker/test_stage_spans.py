"""Where the time of a picture went, on a real worker server whose spans go out over OTLP.

Each stage in turn is slowed where it happens: in the registry, on disk, in the engine, at the caller.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from looksmith.errors import DataLoss, DeadlineExceeded
from looksmith.nouns import Brand
from looksmith.v1 import generation_pb2 as pb
from services.chassis import interceptors
from services.gpu_worker import disk_cache, generation, lease, telemetry
from services.gpu_worker.client import WorkerClient
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import Costs, FakeEngine
from services.gpu_worker.engine.protocol import EngineJob
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.settings import WorkerSettings
from tests.integration.otlp_receiver import OtlpReceiver, Span, exported, otlp_receiver
from tests.unit.gpu_worker.worker_parts import FilesRegistry, content, eventually, facts

pytestmark = [pytest.mark.integration]

SLOW_S = 0.2
STEPS = 4
SWAP_STAGES = ("fetch", "verify", "compile", "copy", "bind")
LEAVES = ("settle", "wait", *SWAP_STAGES, "prompt.encode", "denoise", "vae.decode", "image.encode", "send")
ENGINE_COSTS = {
    "compile": Costs(read=SLOW_S),
    "copy": Costs(copy=SLOW_S),
    "bind": Costs(bind=SLOW_S),
    "prompt.encode": Costs(prompt=SLOW_S),
    "denoise": Costs(step=SLOW_S / STEPS),
    "vae.decode": Costs(decode=SLOW_S),
}
#: A picture that a caller who reads slowly can't have received before it reads: more than its window.
PICTURE = bytes(1 << 19)
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 17))


@dataclass
class SlowRegistry(FilesRegistry):
    """Takes a while to answer about one brand's record, or before it sends a file."""

    brand_s: float = 0.0
    download_s: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        for brand in ("acme", "ahead"):
            self.publish(brand, content(brand))

    async def get_brand(self, name: str) -> Brand:
        await asyncio.sleep(self.brand_s)
        return await super().get_brand(name)

    async def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.download_s)
        async for chunk in super().download(brand, digest):
            yield chunk


class BusyEngine(FakeEngine):
    """Is held up by a job of the brand "ahead": ``busy`` tells that it is, until a while after ``others_wait``."""

    def __init__(self, costs: Costs) -> None:
        super().__init__([facts()], costs=costs)
        self.busy, self.others_wait = threading.Event(), threading.Event()

    def start(self, job: EngineJob) -> None:
        if job.brand == "ahead":
            self.busy.set()
            self.others_wait.wait(10)
            time.sleep(SLOW_S)
        super().start(job)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver, exported(receiver, (interceptors, lease, telemetry), monkeypatch):
        yield receiver


@asynccontextmanager
async def worker(folder: Path, registry: FilesRegistry, engine: FakeEngine) -> AsyncIterator[WorkerClient]:
    settings = WorkerSettings.read(
        {
            "WORKER_NAME": "w1",
            "WORKER_REGISTRY": "unused",
            "WORKER_DISK_CACHE": str(folder),
            "WORKER_SHUTDOWN_GRACE_S": "0",
        }
    )
    async with (
        gpu_worker(settings, registry=registry, engine=engine) as server,
        grpc.aio.insecure_channel(server.address, options=SMALL_WINDOW) as channel,
    ):
        yield WorkerClient(channel)


async def ask(
    client: WorkerClient,
    brand: str,
    *,
    trace: str = "",
    pause_s: float = 0.0,
    accepted: Callable[[], None] = lambda: None,
) -> None:
    """Asks for one picture and takes it; pauses before it reads on from the first chunk."""
    metadata = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"} if trace else {}
    request = pb.GenerateRequest(brand=brand, prompt="a kite", steps=STEPS)
    async with client.generate(request, timeout_s=20, metadata=metadata) as call:
        async for response in call:
            if response.HasField("accepted"):
                accepted()
            if response.HasField("chunk") and response.chunk.offset == 0:
                await asyncio.sleep(pause_s)


def slowly(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slowed(*args: object) -> object:
        time.sleep(seconds)
        return function(*args)

    return slowed


async def leaves(
    slowed: str, folder: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """Seconds of each leaf span of one request to a fresh worker, of which the stage ``slowed`` is slow."""

    def slow_in(stage: str) -> float:
        return SLOW_S if stage == slowed else 0.0

    registry = SlowRegistry(brand_s=slow_in("settle"), download_s=slow_in("fetch"))
    engine = BusyEngine(ENGINE_COSTS.get(slowed, Costs()))
    trace = secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(monkeypatch.context())
        patch.setattr(disk_cache, "file_digest", slowly(file_digest, slow_in("verify")))
        patch.setattr(generation, "encode", slowly(lambda *_: PICTURE, slow_in("image.encode")))
        client = await stack.enter_async_context(worker(folder, registry, engine))
        if slowed == "wait":
            ahead = asyncio.create_task(ask(client, "ahead"))
            await eventually(engine.busy.is_set)
        await ask(client, "acme", trace=trace, pause_s=slow_in("send"), accepted=engine.others_wait.set)
        if slowed == "wait":
            await ahead
        spans = await receiver.trace_of("worker.generate", of=trace)
    parents = {span.parent for span in spans}
    found: defaultdict[str, float] = defaultdict(float)
    for span in spans:
        if span.id not in parents:
            found[span.name] += span.seconds
    return found


@pytest.mark.parametrize("stage", LEAVES)
async def test_slow_stage_shows_in_its_span_and_in_no_other(
    stage: str, tmp_path: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = [await leaves("", tmp_path / f"usual{n}", receiver, monkeypatch) for n in range(2)]
    slowed = [await leaves(stage, tmp_path / f"slowed{n}", receiver, monkeypatch) for n in range(2)]
    assert all(set(found) == set(LEAVES) for found in (*usual, *slowed))
    # The least of two tries each: a busy machine only adds.
    grown = {name: round(min(s[name] for s in slowed) - min(u[name] for u in usual), 3) for name in LEAVES}
    assert [name for name in LEAVES if grown[name] >= 0.75 * SLOW_S] == [stage], grown


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_call_that_is_cancelled_in_a_download_says_so_in_every_open_span(
    tmp_path: Path, receiver: OtlpReceiver
) -> None:
    registry = SlowRegistry()
    registry.hold(digest := next(iter(registry.served)))
    async with worker(tmp_path, registry, BusyEngine(Costs())) as client:
        asking = asyncio.create_task(ask(client, "acme"))
        await eventually(lambda: registry.downloads[digest])
        asking.cancel()
        spans = await receiver.trace_of("worker.generate")
    painted = named(spans, "worker.generate")
    assert painted.attributes["rpc.response.status_code"] == painted.error == "CANCELLED"
    assert named(spans, "adapter.swap").error == "UNFINISHED"
    assert named(spans, "fetch").error == "CANCELLED"


async def test_call_whose_deadline_passes_in_a_download_says_so(tmp_path: Path, receiver: OtlpReceiver) -> None:
    registry = SlowRegistry()
    registry.hold(next(iter(registry.served)))
    async with worker(tmp_path, registry, BusyEngine(Costs())) as client:
        with pytest.raises(DeadlineExceeded):
            async with client.generate(pb.GenerateRequest(brand="acme", prompt="a kite"), timeout_s=0.5) as call:
                [_ async for _ in call]
        spans = await receiver.trace_of("worker.generate")
    painted = named(spans, "worker.generate")
    assert painted.attributes["rpc.response.status_code"] == painted.error == "DEADLINE_EXCEEDED"
    assert named(spans, "fetch").error == "CANCELLED"


async def test_refused_file_is_named_in_the_span_of_its_stage(tmp_path: Path, receiver: OtlpReceiver) -> None:
    registry = SlowRegistry()
    registry.served[next(iter(registry.served))] = b"other bytes"
    async with worker(tmp_path, registry, BusyEngine(Costs())) as client:
        with pytest.raises(DataLoss):
            await ask(client, "acme")
        spans = await receiver.trace_of("worker.generate")
    assert named(spans, "verify").error == named(spans, "worker.generate").error == "DIGEST_MISMATCH"
