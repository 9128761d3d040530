"""The whole system in one process, on a real store and with the model that ships, as the callers of these tests see it.

Publishes a few good adapters; what is bad about an input is each test's own business.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minio import Minio
from numpy.typing import NDArray
from PIL import Image

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.lora import table_to_json
from looksmith.nouns import AdapterUse, Brand, BrandLimits
from looksmith.v1 import brand_pb2_grpc, registry_pb2_grpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from looksmith.v1 import registry_pb2 as registry_pb
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.settings import WorkerSettings
from services.registry import layout
from services.registry.client import RegistryClient, measured
from services.registry.compose import registry
from services.registry.messages import Published, PublishHeader
from services.registry.seaweedfs import RunningStore
from services.registry.settings import RegistrySettings
from services.router.client import FleetClient
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.integration.bad_input.adapter_files import STUDIO, good_lora
from tests.unit.looksmith.lora.lora_files import TO_Q, diffusers, safetensors, tiny_table

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "deploy" / "recipes" / "studio.toml"
DOORS = ("router", "worker")

#: What the tests ask for where they ask for nothing else, and the id under which its adapter was published.
GOOD = pb.GenerateRequest(brand="acme", prompt="a red apple", seed=7)
PUBLISHED_AS = "first-of-look"


@dataclass(frozen=True)
class System:
    """Channels to running servers, by name, and what lies behind them.

    Attributes:
        folder: holds the worker's cache.
        published: brand, adapter, version and digest of all that was validly published.
        first_picture: what GOOD looked like before anything bad came in.
    """

    channels: dict[str, grpc.aio.Channel]
    addresses: dict[str, str]
    store: RunningStore
    folder: Path
    published: list[tuple[str, str, int, str]] = field(default_factory=list)
    first_picture: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    @property
    def registry(self) -> RegistryClient:
        return RegistryClient(self.channels["registry"])

    @property
    def adapters(self) -> registry_pb2_grpc.AdapterRegistryServiceAsyncStub:
        return registry_pb2_grpc.AdapterRegistryServiceStub(self.channels["registry"])

    @property
    def brands(self) -> brand_pb2_grpc.BrandServiceAsyncStub:
        return brand_pb2_grpc.BrandServiceStub(self.channels["registry"])

    async def generate(self, door: str, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
        """All responses of the router or of the worker."""
        stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(self.channels[door])
        try:
            return [response async for response in stub.Generate(request, timeout=30)]
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None

    async def refused(self, door: str, request: pb.GenerateRequest) -> LooksmithError:
        try:
            responses = await self.generate(door, request)
        except LooksmithError as error:
            return error
        raise AssertionError(f"it was served: {responses[-1]}")

    async def publish(self, data: bytes, **fields: object) -> Published:
        """Publishes a file as acme/look of the studio, unless told otherwise."""
        return await self.registry.publish(header_for(data, **fields), [data])

    async def healthy(self) -> bool:
        """Whether every server says that it serves."""
        checks = [health_pb2_grpc.HealthStub(channel).Check for channel in self.channels.values()]  # type: ignore[attr-defined]  # its stubs leave it out
        answers = await asyncio.gather(*(check(health_pb2.HealthCheckRequest(), timeout=5) for check in checks))
        return all(answer.status == health_pb2.HealthCheckResponse.SERVING for answer in answers)

    async def listed(self) -> list[tuple[str, str, int, str]]:
        """Every version that callers can see."""
        found = []
        for adapter in (await self.adapters.ListAdapters(registry_pb.ListAdaptersRequest(), timeout=5)).adapters:
            asked = registry_pb.ListAdapterVersionsRequest(brand=adapter.brand, adapter=adapter.name)
            for version in (await self.adapters.ListAdapterVersions(asked, timeout=5)).versions:
                found.append((adapter.brand, adapter.name, version.version, version.digest))  # noqa: PERF401  # reads better
        return sorted(found)

    def objects(self) -> list[str]:
        """Every key in the store but those of the registry's own probes and hints, asked past the registry."""
        keys = (self.store.access_key, self.store.secret_key)
        client = Minio(self.store.endpoint, *keys, secure=False, region="us-east-1")
        found = (str(each.object_name) for each in client.list_objects(self.store.bucket, recursive=True))
        return sorted(key for key in found if not key.startswith((layout.PROBES, layout.FEED)))

    def unfinished(self) -> list[Path]:
        """Files of uploads and downloads that have not ended."""
        return list((self.folder / "cache").glob("*.part"))


def header_for(data: bytes, **fields: object) -> PublishHeader:
    digest, size = measured([data])
    given = {"brand": "acme", "adapter": "look", "family": "studio", "digest": digest, "size_bytes": size, **fields}
    return PublishHeader(**given)  # type: ignore[arg-type]  # a factory passes on what a test gives


def asked(**fields: object) -> pb.GenerateRequest:
    """GOOD with other fields."""
    request = pb.GenerateRequest()
    request.CopyFrom(GOOD)
    for name in fields:
        request.ClearField(name)  # type: ignore[arg-type]  # a test names its fields
    request.MergeFrom(pb.GenerateRequest(**fields))  # type: ignore[arg-type]  # as above
    return request


def pictures(responses: list[pb.GenerateResponse]) -> list[NDArray[np.uint8]]:
    """The pictures of a whole stream, decoded; [height, width, 3] each."""
    assert responses[-1].HasField("finished")
    data: dict[int, bytes] = {}
    for response in responses:
        if response.HasField("chunk"):
            data[response.chunk.image] = data.get(response.chunk.image, b"") + response.chunk.data
    return [np.asarray(Image.open(io.BytesIO(data[image])).convert("RGB")) for image in sorted(data)]


def is_painted(picture: NDArray[np.uint8]) -> bool:
    """Of the studio's size, and neither flat nor noise: neighbouring pixels are much more alike than distant ones."""
    values = picture.astype(float)
    across = np.abs(np.diff(values, axis=1)).mean()
    return picture.shape == (128, 128, 3) and values.std() > 10 and across < values.std() / 2


@asynccontextmanager
async def running(store: RunningStore, folder: Path, *, engine: str = "reference") -> AsyncIterator[System]:
    """A registry, a router and a worker that has joined it, with one brand that has all kinds of good adapters."""
    (folder / "bases").mkdir(parents=True)
    (folder / "bases" / "tiny.json").write_text(table_to_json(tiny_table()))
    async with AsyncExitStack() as stack:
        keeping = await stack.enter_async_context(registry(registry_settings(store, folder)))
        placing = await stack.enter_async_context(router(router_settings(keeping.address)))
        painting = WorkerSettings.read(
            {
                "WORKER_NAME": "w1",
                "WORKER_REGISTRY": keeping.address,
                "WORKER_DISK_CACHE": str(folder / "cache"),
                "WORKER_RECIPES": f"{RECIPE},{strict_recipe(folder)}",
                "WORKER_ROUTERS": placing.address,
                "WORKER_ENGINE": engine,
                "WORKER_THREADS": "1",
                "WORKER_SHUTDOWN_GRACE_S": "0",
            }
        )
        worker = await stack.enter_async_context(gpu_worker(painting))
        addresses = {"registry": keeping.address, "router": placing.address, "worker": worker.address}
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for name, address in addresses.items()
        }
        fleet = FleetClient(channels["router"])
        async with asyncio.timeout(10):
            while not await fleet.list_workers():  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.02)
        system = System(channels, addresses, store, folder)
        system = replace(system, published=await furnish(system))
        (picture,) = pictures(await system.generate("router", GOOD))
        yield replace(system, first_picture=picture)


async def furnish(system: System) -> list[tuple[str, str, int, str]]:
    """Publishes what the tests rely on, all of it good; returns what is then listed."""
    await system.registry.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
    await system.registry.put_brand(Brand("frugal", limits=BrandLimits(max_images_per_request=2)))
    other_family = safetensors(diffusers(tiny_table(), {f"unet.{TO_Q}": 2}))
    published = [
        await system.publish(good_lora(1), request_id=PUBLISHED_AS, base_digest=STUDIO.digest),
        await system.publish(good_lora(2), base_digest=STUDIO.digest),
        await system.publish(good_lora(3), adapter="sister", base_digest="5" * 64),
        await system.publish(other_family, adapter="miniature", family="tiny"),
    ]
    versions = [each.version for each in published]
    return sorted((version.brand, version.adapter, version.version, version.digest) for version in versions)


def registry_settings(store: RunningStore, folder: Path) -> RegistrySettings:
    return RegistrySettings.read(
        {
            **store.environ(),
            "REGISTRY_BASES": str(folder / "bases"),
            "REGISTRY_HEAD_MAX_AGE_S": "0",  # a list is what the store holds, not what memory does
            "REGISTRY_SHUTDOWN_GRACE_S": "0",
        }
    )


def router_settings(registry_address: str) -> RouterSettings:
    return RouterSettings(name="r1", registry=registry_address, default_recipe="studio", shutdown_grace_s=0)


def strict_recipe(folder: Path) -> Path:
    """The studio's recipe for those who want adapters of that very base only."""
    text = RECIPE.read_text().replace('"../../', f'"{ROOT}/').replace('name = "studio"', 'name = "strict"')
    file = folder / "strict.toml"
    file.write_text(text.replace("strict_base = false", "strict_base = true"))
    return file
