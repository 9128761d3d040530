"""Many ask at once for a brand that a worker has never seen, whose file lies in a real store behind a real registry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from minio import Minio

from looksmith.lora import table_to_json
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.client import WorkerClient
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.settings import WorkerSettings
from services.registry import layout
from services.registry.client import RegistryClient
from services.registry.compose import registry
from services.registry.seaweedfs import RunningStore
from services.registry.settings import RegistrySettings
from tests.unit.gpu_worker.worker_parts import facts
from tests.unit.registry.parts import TABLE, header_for, lora_file

pytestmark = pytest.mark.integration

CALLERS = 100
BRAND = "acme"


@asynccontextmanager
async def real_registry(weed: RunningStore, folder: Path) -> AsyncIterator[RegistryClient]:
    """On a bucket of its own, reached over gRPC."""
    (folder / "tiny.json").write_text(table_to_json(TABLE))
    settings = RegistrySettings.read(
        {
            **weed.beside("first-requests").environ(),
            "REGISTRY_BASES": str(folder),
            "REGISTRY_SHUTDOWN_GRACE_S": "0",
        }
    )
    async with registry(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield RegistryClient(channel)


@asynccontextmanager
async def worker(folder: Path, registry: RegistryClient, engine: FakeEngine) -> AsyncIterator[WorkerClient]:
    settings = WorkerSettings.read(
        {
            "WORKER_NAME": "w1",
            "WORKER_REGISTRY": "unused",
            "WORKER_DISK_CACHE": str(folder / "cache"),
            "WORKER_MAX_QUEUED": str(CALLERS),
            "WORKER_SHUTDOWN_GRACE_S": "0",
        }
    )
    async with (
        gpu_worker(settings, registry=registry, engine=engine) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield WorkerClient(channel)


class Reads:
    """Keys of the objects that are read from the store; a blob's bytes come once all callers are accepted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        self.accepted = 0
        self._all_here = threading.Event()
        get_object = Minio.get_object

        def get(store: Minio, bucket: str, key: str, *span: Any) -> Any:  # noqa: ANN401  # as minio says
            self.keys.append(key)
            if key.startswith(layout.blobs(BRAND)):
                self._all_here.wait(10)
            return get_object(store, bucket, key, *span)

        monkeypatch.setattr(Minio, "get_object", get)

    def accept(self) -> None:
        self.accepted += 1
        if self.accepted == CALLERS:
            self._all_here.set()


async def test_a_hundred_first_requests_of_a_brand_are_all_painted_from_one_read_of_the_store(
    weed: RunningStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lora_file()
    header = header_for(data, brand=BRAND)
    engine = FakeEngine([facts(family="tiny")])
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(real_registry(weed, tmp_path))
        await registry.put_brand(Brand(BRAND, default_adapters=(AdapterUse(header.adapter),)))
        await registry.publish(header, [data])
        client = await stack.enter_async_context(worker(tmp_path, registry, engine))
        reads = Reads(monkeypatch)

        async def asked(seed: int) -> list[pb.GenerateResponse]:
            request = pb.GenerateRequest(brand=BRAND, prompt="a kite", seed=seed, steps=1)
            responses = []
            async with client.generate(request, timeout_s=60) as call:
                async for response in call:
                    responses.append(response)
                    if response.HasField("accepted"):
                        reads.accept()
            return responses

        answers = await asyncio.gather(*(asked(seed) for seed in range(CALLERS)))
    finished = [responses[-1].finished for responses in answers]
    assert [[adapter.digest for adapter in each.adapters] for each in finished] == CALLERS * [[header.digest]]
    swaps = [response.swapped for responses in answers for response in responses if response.HasField("swapped")]
    assert [swap.tier for swap in swaps] == CALLERS * [pb.TIER_STORE], "nobody found it here"
    files = [key.partition(".")[0] for key in reads.keys if key.startswith(layout.blobs(BRAND))]
    assert files == [f"{layout.blobs(BRAND)}{header.digest}"]
    assert engine.placements == [header.digest]
