"""A brand's LoRA is published, a router is asked, a worker with the real engine swaps it in and streams the picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from looksmith.errors import AlreadyExists, InvalidArgument
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.client import WorkerClient
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.gpu_worker.engine import tiny

pytestmark = [pytest.mark.integration]

DIALECTS = {"inkwell": "peft", "voltage": "diffusers", "harbour": "kohya"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
async def registry(base: Path, tmp_path: Path) -> FakeRegistryClient:
    """Three brands, each with a LoRA of its own in a dialect of its own."""
    registry = FakeRegistryClient()
    for seed, (brand, dialect) in enumerate(DIALECTS.items(), start=1):
        await registry.put_brand(Brand(brand, default_adapters=(AdapterUse("look"),)))
        lora = tiny.random_lora(base, seed=seed, text_encoder=dialect in {"diffusers", "kohya"})
        file = tiny.write_lora(dialect, lora, tmp_path)
        digest, size = measured(file)
        await registry.publish(PublishHeader(brand, "look", "studio", digest, size), file)
    return registry


@asynccontextmanager
async def fleet(base: Path, folder: Path, registry: FakeRegistryClient) -> AsyncIterator[tuple[str, str]]:
    """Addresses of a router and of the one worker that has joined it."""
    async with AsyncExitStack() as stack:
        dispatching = RouterSettings.read(
            {"ROUTER_NAME": "r1", "ROUTER_REGISTRY": "unused", "ROUTER_SHUTDOWN_GRACE_S": "1"}
        )
        front = await stack.enter_async_context(router(dispatching, registry=registry))
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": "unused",
                "WORKER_DISK_CACHE": str(folder / "cache"),
                "WORKER_RECIPES": str(tiny.write_recipe(folder / "tiny.toml", base)),
                "WORKER_ROUTERS": front.address,
                "WORKER_THREADS": "1",
                "WORKER_SHUTDOWN_GRACE_S": "1",
            }
        )
        worker = await stack.enter_async_context(gpu_worker(painting, registry=registry))
        look = await stack.enter_async_context(FleetClient.connect(front.address))
        async with asyncio.timeout(10):
            while not await look.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        yield front.address, worker.address


async def asked(address: str, **request: object) -> list[pb.GenerateResponse]:
    message = pb.GenerateRequest(**{"prompt": "a red apple", "seed": 3} | request)  # type: ignore[arg-type]  # any field
    async with (
        grpc.aio.insecure_channel(address) as channel,
        WorkerClient(channel).generate(message, timeout_s=60) as call,
    ):
        return [response async for response in call]


def only(responses: list[pb.GenerateResponse], kind: str) -> pb.GenerateResponse:
    (found,) = [response for response in responses if response.WhichOneof("event") == kind]
    return found


def picture(responses: list[pb.GenerateResponse]) -> NDArray[np.uint8]:
    data = b"".join(response.chunk.data for response in responses if response.HasField("chunk"))
    return np.asarray(Image.open(io.BytesIO(data)))


async def test_each_brand_gets_its_own_look_through_the_router_and_the_same_one_directly(
    base: Path, tmp_path: Path, registry: FakeRegistryClient
) -> None:
    async with fleet(base, tmp_path, registry) as (front, worker):
        bare = picture(await asked(front, brand="inkwell", no_adapters=True))
        looks = {}
        for brand in DIALECTS:
            responses = await asked(front, brand=brand)
            finished = only(responses, "finished").finished
            assert (finished.worker, finished.engine) == ("w1", "bank")
            assert only(responses, "placed").placed.reason
            looks[brand] = picture(responses)
            assert np.array_equal(picture(await asked(worker, brand=brand)), looks[brand])
    pictures = [bare, *looks.values()]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert np.abs(one.astype(int) - other).mean() > 5


async def test_first_picture_fetches_the_adapter_and_the_next_finds_it_on_the_device(
    base: Path, tmp_path: Path, registry: FakeRegistryClient
) -> None:
    async with fleet(base, tmp_path, registry) as (front, _):
        first = only(await asked(front, brand="inkwell"), "swapped").swapped
        second = only(await asked(front, brand="inkwell"), "swapped").swapped
    assert (first.tier, second.tier) == (pb.TIER_STORE, pb.TIER_DEVICE)
    assert first.fetched_bytes > 0
    assert all(getattr(first, stage).ToNanoseconds() > 0 for stage in ("fetch", "verify", "compile", "copy"))
    assert second.fetched_bytes == 0
    assert all(getattr(second, stage).ToNanoseconds() == 0 for stage in ("fetch", "verify", "compile", "copy"))


async def test_brands_asked_for_at_once_share_batches_and_each_keeps_its_look(
    base: Path, tmp_path: Path, registry: FakeRegistryClient
) -> None:
    async with fleet(base, tmp_path, registry) as (front, _):
        alone = {brand: picture(await asked(front, brand=brand, steps=8)) for brand in DIALECTS}
        answers = await asyncio.gather(
            *(asked(front, brand=brand, steps=8, report_steps=True) for brand in DIALECTS for _ in range(2))
        )
    brands = [brand for brand in DIALECTS for _ in range(2)]
    for brand, responses in zip(brands, answers, strict=True):
        painted = picture(responses).astype(int)  # random weights magnify rounding: nearest, not equal
        assert min(alone, key=lambda other: float(np.abs(painted - alone[other]).mean())) == brand
    batches = [r.step.batch_rows for responses in answers for r in responses if r.HasField("step")]
    assert max(batches) >= 4
    assert len(batches) == 8 * len(answers)


async def test_a_reproducible_picture_is_the_same_to_the_byte_beside_others(
    base: Path, tmp_path: Path, registry: FakeRegistryClient
) -> None:
    async with fleet(base, tmp_path, registry) as (front, _):
        alone = await asked(front, brand="inkwell", reproducible=True)
        others = [asked(front, brand=brand) for brand in DIALECTS for _ in range(3)]
        among, *_ = await asyncio.gather(asked(front, brand="inkwell", reproducible=True), *others)
    assert only(among, "image_done").image_done.sha256 == only(alone, "image_done").image_done.sha256


async def test_a_prompt_that_the_worker_found_too_long_is_shortened_under_the_same_id(
    base: Path, tmp_path: Path, registry: FakeRegistryClient
) -> None:
    async with fleet(base, tmp_path, registry) as (front, _):
        with pytest.raises(InvalidArgument) as caught:
            await asked(front, brand="inkwell", request_id="r1", prompt="a red apple " * 100)
        assert caught.value.reason == "PROMPT_TOO_LONG"
        assert only(await asked(front, brand="inkwell", request_id="r1"), "finished")
        with pytest.raises(AlreadyExists):
            await asked(front, brand="inkwell", request_id="r1", prompt="a green apple")
