"""One worker with recipes of two families behind a router: a brand moves from one recipe to another under load."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import grpc
import pytest
import pytest_asyncio
from PIL import Image

from benchmarks.reduced_bases import RECIPES, World, random_lora, write_kohya
from looksmith.client import Looksmith, Painting
from looksmith.errors import FailedPrecondition
from looksmith.nouns import AdapterUse, Brand, Tier
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import gpu_worker, make_engine
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.several_bases import SeveralBases
from services.gpu_worker.settings import WorkerSettings
from services.registry.client import RegistryClient, measured
from services.registry.compose import registry_on
from services.registry.messages import PublishHeader
from services.registry.object_store import InMemoryObjectStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.members import Heartbeat
from services.router.settings import RouterSettings
from tests.integration.gpu_worker.reduced_recipes import written

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

HYPER, LCM = "sd15-hyper", "sd15-lcm"
#: The recipe that each brand begins with. The mover and the other have a LoRA each, of which the other's has
#: convolutions, so that the reference lane paints it.
BRANDS = {"mover": HYPER, "other": HYPER, "atelier": "studio"}
STEPS = 4  # which all three recipes paint


@dataclass(frozen=True)
class Fleet:
    front: str  # the router's address
    registry: RegistryClient
    engine: SeveralBases
    look: FleetClient
    digests: dict[str, str]  # of adapters, by brand

    async def heartbeat(self) -> Heartbeat:
        (worker,) = await self.look.list_workers()
        return worker.heartbeat

    async def moved(self, recipe: str) -> None:
        record = await self.registry.get_brand("mover")
        await self.registry.put_brand(replace(record, recipe=recipe), expected_version=record.version)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(sd15: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("several")
    recipes = [RECIPES / "studio.toml", *(written(sd15, name, folder) for name in (HYPER, LCM))]
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(_registry(sd15))
        digests = await _published(registry, sd15, folder)
        front = await stack.enter_async_context(
            router(RouterSettings(name="r1", registry="unused", shutdown_grace_s=0), registry=registry)
        )
        settings = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": "unused",
                "WORKER_DISK_CACHE": str(folder / "disk"),
                "WORKER_RECIPES": ",".join(map(str, recipes)),
                "WORKER_ROUTERS": front.address,
                "WORKER_SLOTS": "8:6",
                "WORKER_BATCH_SIZES": "1,2",
                "WORKER_THREADS": "1",
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        engine = make_engine(settings, steady_clock())
        assert isinstance(engine, SeveralBases)
        await stack.enter_async_context(gpu_worker(settings, registry=registry, engine=engine))
        look = await stack.enter_async_context(FleetClient.connect(front.address))
        async with asyncio.timeout(10):
            while not await look.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        yield Fleet(front.address, registry, engine, look, digests)


@asynccontextmanager
async def _registry(sd15: World) -> AsyncIterator[RegistryClient]:
    """One over gRPC that knows the layers of the reduced base."""
    settings = RegistrySettings.read(
        {
            "REGISTRY_STORE_ENDPOINT": "in memory",
            "REGISTRY_STORE_ACCESS_KEY": "",
            "REGISTRY_STORE_SECRET_KEY": "",
            "REGISTRY_SHUTDOWN_GRACE_S": "0",
        }
    )
    async with (
        registry_on(InMemoryObjectStore(), settings, {"sd15": sd15.table}) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield RegistryClient(channel)


async def _published(registry: RegistryClient, sd15: World, folder: Path) -> dict[str, str]:
    digests = {}
    for seed, (brand, recipe) in enumerate(BRANDS.items()):
        if recipe == "studio":
            await registry.put_brand(Brand(brand, recipe=recipe))
            continue
        await registry.put_brand(Brand(brand, recipe=recipe, default_adapters=(AdapterUse("look"),)))
        file = folder / f"{brand}.safetensors"
        write_kohya(random_lora(sd15.table, seed=seed, convolutions=brand == "other"), file, sd15.table)
        digest, size = measured(file)
        await registry.publish(PublishHeader(brand, "look", "sd15", digest, size), file)
        digests[brand] = digest
    return digests


def asked(brand: str, **fields: object) -> pb.GenerateRequest:
    given = {"brand": brand, "prompt": "a red kite", "seed": 7, "steps": STEPS, "reproducible": True, **fields}
    return pb.GenerateRequest(**given)  # type: ignore[arg-type]  # any field


@dataclass
class Callers:
    """Ask for each brand, one picture after the other, until they are told to stop."""

    client: Looksmith
    painted: dict[str, list[Painting]] = field(default_factory=lambda: {brand: [] for brand in BRANDS})

    async def __aenter__(self) -> Self:
        self._stop = False
        self._tasks = [asyncio.create_task(self._call(brand)) for brand in BRANDS]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _call(self, brand: str) -> None:
        while not self._stop:
            self.painted[brand].append(await self.client.paint(asked(brand)))

    async def until_next(self, recipe: str) -> None:
        """Until everyone has had one more picture, the mover's of this recipe."""
        before = {brand: len(painted) for brand, painted in self.painted.items()}

        def is_so() -> bool:
            latest = [painting.finished.recipe for painting in self.painted["mover"][-1:]]
            return latest == [recipe] and all(len(self.painted[each]) > n for each, n in before.items())

        async with asyncio.timeout(60):
            while not is_so():
                if failed := [task for task in self._tasks if task.done()]:
                    await failed[0]
                await asyncio.sleep(0.02)


def picture(painting: Painting) -> tuple[str, str, str, bytes]:
    """Its recipe, the digest of its file, and its pixels: files of the same pixels differ in what made them."""
    (image,) = painting.images
    pixels = Image.open(io.BytesIO(image.data)).tobytes()
    return painting.finished.recipe, painting.finished.recipe_digest, image.sha256, pixels


async def test_a_brand_moves_to_another_recipe_and_back_while_everyone_paints(fleet: Fleet) -> None:
    digests = {recipe.name: recipe.digest for recipe in fleet.engine.recipes}
    async with Looksmith([fleet.front]) as client:
        alone = {brand: picture(await client.paint(asked(brand))) for brand in BRANDS}
        upgraded = picture(await client.paint(asked("mover", recipe=LCM)))
        async with Callers(client) as callers:
            await callers.until_next(HYPER)
            for recipe in (LCM, HYPER):
                await fleet.moved(recipe)
                await callers.until_next(recipe)
    assert {(name, digest) for name, digest, *_ in alone.values()} == {
        (each, digests[each]) for each in BRANDS.values()
    }
    assert upgraded[:2] == (LCM, digests[LCM])
    assert len({pixels for _, _, _, pixels in (*alone.values(), upgraded)}) == 4
    for brand in ("other", "atelier"):
        assert {picture(painting) for painting in callers.painted[brand]} == {alone[brand]}
    theirs = [picture(painting) for painting in callers.painted["mover"]]
    assert [each for each, _ in itertools.groupby(theirs)] == [alone["mover"], upgraded, alone["mover"]]


async def test_an_adapter_that_both_recipes_use_stays_in_its_one_slot(fleet: Fleet) -> None:
    async with Looksmith([fleet.front]) as client:
        for brand in fleet.digests:
            first = await client.paint(asked(brand, recipe=HYPER))
            other = await client.paint(asked(brand, recipe=LCM))
            assert other.swapped.tier == pb.TIER_DEVICE
            assert picture(other)[3] != picture(first)[3]
    async with asyncio.timeout(10):
        while (heard := await fleet.heartbeat()).slots_used != len(fleet.digests):  # noqa: ASYNC110  # it tells who asks
            await asyncio.sleep(0.05)
    assert {heard.residency[digest] for digest in fleet.digests.values()} == {Tier.DEVICE}
    hyper, lcm = (engine for engine in fleet.engine._engines if engine.recipes[0].family == "sd15")
    assert isinstance(hyper, BankEngine) and isinstance(lcm, BankEngine)
    assert hyper._bank is lcm._bank


async def test_a_lora_of_another_family_than_the_recipe_s_is_refused_by_name(fleet: Fleet) -> None:
    async with Looksmith([fleet.front]) as client:
        with pytest.raises(
            FailedPrecondition, match="was trained for sd15, recipe studio paints with studio"
        ) as caught:
            await client.paint(asked("mover", recipe="studio"))
    assert caught.value.reason == "FAMILY_MISMATCH"
