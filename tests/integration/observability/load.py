"""A short load on a running system: brands published and painted by several callers, and what must fail.

Its end is a time, not a number of pictures; what it leaves behind in metrics is for others to look at.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import grpc

from looksmith.cli.demo import Publication, publications
from looksmith.errors import LooksmithError, NotFound
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.client import WorkerClient
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader
from services.router.client import FleetClient
from tests.integration.processes import ROOT

CALLERS = 10


async def under_load(registry: str, router: str, *, workers: int, lasting_s: float) -> None:
    """Puts the load on once ``workers`` workers are there. Brands come in one after the other, while it lasts."""
    async with grpc.aio.insecure_channel(registry) as to_registry, grpc.aio.insecure_channel(router) as to_router:
        client, painter = RegistryClient(to_registry), WorkerClient(to_router)
        shipped = [each for each in publications(ROOT / "models/studio/brands") if all_files(each)]
        for publication in shipped:
            await client.put_brand(publication.brand)
            for adapter, path in publication.adapters.items():
                await publish(client, publication.brand.name, adapter, path)
        async with FleetClient.connect(router) as fleet, asyncio.timeout(20):
            while len(await fleet.list_workers()) < workers:  # noqa: ASYNC110  # a router tells only who asks
                await asyncio.sleep(0.05)

        async def paint(number: int, part: float) -> None:
            known = shipped[: math.ceil(part * len(shipped))]
            await ask(painter, known[number % len(known)].brand.name, number)

        async def fail(number: int, _: float) -> None:
            with suppress(NotFound):
                await ask(painter, "nobody", number)
            with suppress(LooksmithError):
                await publish(client, shipped[0].brand.name, f"no-lora-{number}", Path(__file__))
            adapter, path = next(iter(shipped[0].adapters.items()))
            await publish(client, shipped[0].brand.name, adapter, path)  # it is there already
            await asyncio.sleep(0.1)

        began = time.monotonic()

        async def again_and_again(do: Callable[[int, float], Awaitable[None]]) -> None:
            for number in count():
                if (part := (time.monotonic() - began) / lasting_s) > 1:
                    return
                await do(number, part)

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(again_and_again(paint))
            callers.create_task(again_and_again(fail))


def all_files(publication: Publication) -> bool:
    """Whether no adapter is a peft folder, which would have to be packed first."""
    return all(path.is_file() for path in publication.adapters.values())


async def ask(painter: WorkerClient, brand: str, number: int) -> None:
    async with painter.generate(pb.GenerateRequest(brand=brand, prompt=f"a red mug, {number}")) as call:
        async for _ in call:
            pass


async def publish(client: RegistryClient, brand: str, adapter: str, file: Path) -> None:
    digest, size = measured(file)
    await client.publish(PublishHeader(brand, adapter, "studio", digest, size), file)
