"""The bank engine at the studio model is built anew in a living process: the same pictures, the old memory freed."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from functools import partial
from pathlib import Path

import grpc
import pytest

from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import fleet_pb2 as pb
from looksmith.v1 import fleet_pb2_grpc
from looksmith.v1 import generation_pb2 as painting_pb
from looksmith.v1 import generation_pb2_grpc as painting_rpc
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import gpu_worker, make_engine
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import Engine
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import FakeRegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


async def picture(channel: grpc.aio.Channel) -> tuple[str, painting_pb.Tier.ValueType]:
    """The sha256 of one picture, and where its adapter was found."""
    stub: painting_rpc.ImageGenerationServiceAsyncStub = painting_rpc.ImageGenerationServiceStub(channel)
    request = painting_pb.GenerateRequest(brand="voltage", prompt="a red mug", seed=3, reproducible=True)
    answers = [answer async for answer in stub.Generate(request, timeout=60)]
    (done,) = [answer.image_done for answer in answers if answer.HasField("image_done")]
    (swapped,) = [answer.swapped for answer in answers if answer.HasField("swapped")]
    data = b"".join(answer.chunk.data for answer in answers if answer.HasField("chunk"))
    assert hashlib.sha256(data).hexdigest() == done.sha256
    return done.sha256, swapped.tier


async def test_a_new_engine_paints_the_same_picture_to_the_byte_and_the_old_one_s_models_are_gone(
    tmp_path: Path,
) -> None:
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("voltage", default_adapters=(AdapterUse("look"),)))
    file = ROOT / "models/studio/brands/voltage/house-style.safetensors"
    digest, size = measured(file)
    await registry.publish(PublishHeader("voltage", "look", "studio", digest, size), file)
    kept: list[weakref.ref[object]] = []  # of each engine: itself, its UNet and its bank, once it is loaded
    freed: list[list[bool]] = []  # of those, before another one was made

    settings = RouterSettings(name="r1", registry="unused", shutdown_grace_s=0)
    async with router(settings, registry=registry) as front, grpc.aio.insecure_channel(front.address) as channel:
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": "unused",
                "WORKER_DISK_CACHE": str(tmp_path),
                "WORKER_ROUTERS": front.address,
                "WORKER_THREADS": "1",
                "WORKER_RECIPES": str(ROOT / "deploy/recipes/studio.toml"),
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        make = partial(make_engine, painting, steady_clock())

        def remembered() -> Engine:
            freed.append([each() is None for each in kept])
            engine = make()
            assert isinstance(engine, BankEngine)
            load, itself = engine.load, weakref.ref(engine)

            def load_and_remember() -> None:
                load()
                if engine := itself():
                    kept.extend(map(weakref.ref, (engine, engine._reference.pipe.unet, engine._bank)))

            engine.load = load_and_remember  # type: ignore[method-assign]  # to see what it has loaded
            return engine

        async with gpu_worker(painting, registry=registry, new_engine=remembered):
            async with asyncio.timeout(10):
                while not await FleetClient(channel).list_workers():  # noqa: ASYNC110  # a router tells only who asks
                    await asyncio.sleep(0.02)
            before, _ = await picture(channel)
            fleet: fleet_pb2_grpc.FleetServiceAsyncStub = fleet_pb2_grpc.FleetServiceStub(channel)
            done = await fleet.ResetWorker(pb.ResetWorkerRequest(name="w1"), timeout=60)
            assert done.reset.phase == pb.RESET_PHASE_DONE, done.reset.problem
            after, tier = await picture(channel)
    assert freed == [[], [True] * 3]
    assert after == before
    assert tier == painting_pb.TIER_DISK, "the bank was empty"
