"""One Generate through registry, router and worker, each a process that exports over OTLP, is one tree of spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.client import WorkerClient
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader
from services.registry.seaweedfs import RunningStore
from services.router.client import FleetClient
from tests.integration.otlp_receiver import OtlpReceiver, Span, otlp_receiver
from tests.integration.processes import service
from tests.unit.gpu_worker.engine import tiny

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]  # it starts three processes

WORKER = "looksmith.generate > attempt > worker.generate"
SWAP = f"{WORKER} > adapter.swap"
TREE = {
    "looksmith.generate",
    *(f"looksmith.generate > {name}" for name in ("admit", "queue", "place", "attempt")),
    "looksmith.generate > admit > looksmith.v1.BrandService/GetBrand",
    "looksmith.generate > admit > looksmith.v1.AdapterRegistryService/ResolveAdapter",
    WORKER,
    *(
        f"{WORKER} > {name}"
        for name in (
            "settle", "wait", "adapter.swap", "prompt.encode", "denoise", "vae.decode", "image.encode", "send",
        )
    ),
    *(f"{SWAP} > {name}" for name in ("fetch", "verify", "compile", "copy", "bind")),
    f"{SWAP} > fetch > looksmith.v1.AdapterRegistryService/DownloadAdapter",
}  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
async def router(weed: RunningStore, receiver: OtlpReceiver, tmp_path: Path) -> AsyncIterator[str]:
    """Address of a router with a worker behind it, and a registry that knows one brand."""
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    base = tiny.write_base(tmp_path / "base")
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            service(
                "registry",
                **weed.beside("one-trace").environ(),
                **exporting,
            )
        )
        await publish(registry, tiny.write_lora("kohya", tiny.random_lora(base, seed=1), tmp_path))
        address = await stack.enter_async_context(
            service("router", ROUTER_NAME="r1", ROUTER_REGISTRY=registry, **exporting)
        )
        await stack.enter_async_context(
            service(
                "gpu_worker",
                WORKER_NAME="w1",
                WORKER_REGISTRY=registry,
                WORKER_ROUTERS=address,
                WORKER_DISK_CACHE=str(tmp_path / "cache"),
                WORKER_RECIPES=str(tiny.write_recipe(tmp_path / "tiny.toml", base)),
                WORKER_THREADS="1",
                **exporting,
            )
        )
        fleet = await stack.enter_async_context(FleetClient.connect(address))
        async with asyncio.timeout(10):
            while not await fleet.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.05)
        yield address


async def publish(registry: str, file: Path) -> None:
    digest, size = measured(file)
    async with grpc.aio.insecure_channel(registry) as channel:
        client = RegistryClient(channel)
        await client.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
        await client.publish(PublishHeader("acme", "look", "studio", digest, size), file)


def paths(spans: list[Span]) -> set[str]:
    """Each span by the names from its root down; one whose parent is missing begins with a question mark."""
    by_id = {span.id: span for span in spans}

    def path(span: Span) -> str:
        if not span.parent:
            return span.name
        above = path(by_id[span.parent]) if span.parent in by_id else "?"
        return f"{above} > {span.name}"

    return set(map(path, spans))


def covered(spans: list[Span], of: Span) -> float:
    """Share of a span's time in which at least one of the others runs."""
    reached, total = of.start_ns, 0
    for span in sorted(spans, key=lambda span: span.start_ns):
        total += max(0, min(span.end_ns, of.end_ns) - max(span.start_ns, reached))
        reached = max(reached, span.end_ns)
    return total / (of.end_ns - of.start_ns)


async def test_one_generate_is_one_connected_tree_that_tells_where_the_time_went(
    router: str, receiver: OtlpReceiver
) -> None:
    request = pb.GenerateRequest(brand="acme", prompt="a red apple", seed=3, count=4, steps=8)
    async with grpc.aio.insecure_channel(router) as channel, WorkerClient(channel).generate(request) as call:
        responses = [response.WhichOneof("event") async for response in call]
    assert responses[-1] == "finished"
    await receiver.trace_of("worker.generate")
    spans = await receiver.trace_of("looksmith.generate")
    assert paths(spans) == TREE
    assert {span.service for span in spans} == {"looksmith-registry", "looksmith-router", "looksmith-gpu-worker"}
    assert [span.name for span in spans if span.error is not None] == []
    (painted,) = [span for span in spans if span.name == "worker.generate"]
    children = [span for span in spans if span.parent == painted.id]
    assert sum(span.name == "denoise" for span in children) == 4
    assert covered(children, painted) >= 0.95
