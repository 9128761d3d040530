"""What is painted after an alias has moved, and how soon a published version is: the whole stack, as processes.

Changes are made at one registry replica; router and workers ask another one. Pictures are told apart by what the same
request looked like when the version was asked for by its number.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.batches import house_styles
from benchmarks.brands import ADAPTER, FAMILY, write_brands
from benchmarks.references import Picture, nearest_brand, visible_difference
from looksmith.cli.stack import READY_WITHIN_S, Ports, is_serving, local_stack
from looksmith.client import Looksmith, Painting
from looksmith.errors import LooksmithError
from looksmith.lora import packaged_table
from looksmith.nouns import PRODUCTION, AdapterRef, AdapterUse, Brand
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

BRAND, PROMPT, SEED, STEPS, IMAGES = "flipped", "a red kite on a blue background", 11, 4, 2
FLIPS, WORKERS = 100, 2
#: Callers of the router; each worker has one of its own besides, and resolves aliases itself.
CALLERS = 3
#: Seconds between flips, in turn: more than what must have settled, and so little that requests meet several.
PAUSES_S = (3.0, 0.3)
#: By when an alias's move must act.
SETTLED_S = 2.0
#: Share of visibly different pixels that tells the two versions' pictures apart beyond doubt.
DIFFERENT_PART = 0.2
PUBLICATIONS = 9

STORE_KEYS = {"REGISTRY_STORE_ACCESS_KEY": "looksmith", "REGISTRY_STORE_SECRET_KEY": "looksmith-local"}


@dataclass(frozen=True)
class System:
    """``changes`` is the replica that nobody else asks; ``painters`` paint, the router first, then each worker."""

    changes: RegistryClient
    painters: tuple[Looksmith, ...]


@asynccontextmanager
async def system(folder: Path) -> AsyncIterator[System]:
    """A stack of the studio's model, and a second registry."""
    ports = Ports.free(WORKERS + 1)
    other = ports.first_worker + WORKERS
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(local_stack(folder, ports=ports, workers=WORKERS))
        await running.processes.start(
            "registry-2",
            [sys.executable, "-m", "services.registry"],
            REGISTRY_PORT=other,
            REGISTRY_NAME="registry-2",
            REGISTRY_STORE_ENDPOINT=f"127.0.0.1:{ports.store}",
            **STORE_KEYS,
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{other}"))
        await running.processes.until("registry-2", partial(is_serving, channel), within_s=READY_WITHIN_S)
        addresses = [running.router, *(f"127.0.0.1:{ports.first_worker + i}" for i in range(WORKERS))]
        painters = [await stack.enter_async_context(Looksmith([address])) for address in addresses]
        changes = RegistryClient(channel)
        await changes.put_brand(Brand(BRAND, default_adapters=(AdapterUse(ADAPTER),)))
        yield System(changes, tuple(painters))


async def publish(changes: RegistryClient, file: Path) -> int:
    """Publishes a version that "production" then names; its number."""
    digest, size = await asyncio.to_thread(measured, file)
    base = packaged_table(FAMILY).digest
    header = PublishHeader(BRAND, ADAPTER, FAMILY, digest, size, base_digest=base, aliases=(PRODUCTION,))
    return (await changes.publish(header, file)).version.version


def request(version: int = 0, *, images: int = IMAGES) -> pb.GenerateRequest:
    """The pictures that are always asked for; of version 0 by alias."""
    asked = pb.GenerateRequest(brand=BRAND, prompt=PROMPT, seed=SEED, steps=STEPS, count=images)
    if version:
        asked.adapters.append(adapter_pb2.AdapterUse(adapter=ADAPTER, version=version))
    return asked


def pictures(painting: Painting) -> list[Picture]:
    return [np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB")) for image in painting.images]


# Flips


@dataclass(frozen=True)
class Flip:
    """A move of the alias, by this process's clock."""

    version: int
    asked_at: float
    answered_at: float


@dataclass(frozen=True)
class Painted:
    """A request by alias: when its acceptance was heard, the version that replies name, and those of its pictures."""

    accepted_at: float
    version: int
    shown: tuple[int, ...]


def faults(painted: Painted, flips: Sequence[Flip]) -> list[str]:
    """What is wrong with a request: pictures of another version than it names, or a version that was history."""
    found = []
    if len(set(painted.shown)) > 1:
        found.append("pictures of both versions in one request")
    elif set(painted.shown) != {painted.version}:
        found.append("pictures of another version than the reply names")
    if painted.version not in allowed(painted.accepted_at, flips):
        found.append("accepted with a version that the alias had left for over 2 s")
    return found


def allowed(accepted_at: float, flips: Sequence[Flip]) -> set[int]:
    """Versions that a request may have that was accepted then: all that the alias may have named in the 2 s before."""
    settled = [flip for flip in flips if flip.answered_at <= accepted_at - SETTLED_S]
    since = [flip for flip in flips if flip.answered_at > accepted_at - SETTLED_S and flip.asked_at <= accepted_at]
    return {flip.version for flip in (*settled[-1:], *since)}


async def flips(folder: Path) -> dict[str, float]:
    """Requests by alias while the alias is moved to and fro."""
    async with system(folder) as running:
        looks = house_styles(folder)
        for file in (looks["harbour"], looks["voltage"]):
            await publish(running.changes, file)
        references = await _references(running.painters)
        for painter in running.painters:  # all is warm
            await painter.paint(request())
        moved, wrong = [Flip(2, float("-inf"), float("-inf"))], Counter[str]()
        painted: list[Painted] = []
        stop = asyncio.Event()

        async def caller(painter: Looksmith) -> None:
            while not stop.is_set():
                try:
                    painted.append(await _paint(painter, references))
                except LooksmithError as error:
                    wrong[f"{error.reason}: {error.message}"] += 1

        callers = [running.painters[0]] * CALLERS + list(running.painters[1:])
        calling = [asyncio.create_task(caller(painter)) for painter in callers]
        began = time.perf_counter()
        for number in tqdm(range(FLIPS), desc="flips"):
            moved.append(await _flip(running.changes, moved[-1].version))
            await asyncio.sleep(PAUSES_S[number % len(PAUSES_S)])
        stop.set()
        await asyncio.gather(*calling)
        seconds = time.perf_counter() - began
    for one in painted:
        wrong.update(faults(one, moved))
    for what, count in wrong.items():
        print(f"wrong: {what}: {count}")
    mixed = sum(len(set(one.shown)) > 1 for one in painted)
    strict = sum(len(allowed(one.accepted_at, moved)) == 1 for one in painted)
    return {
        "flip_wrong": float(wrong.total()),
        "flip_mixed": float(mixed),
        "flips": float(FLIPS),
        "flip_requests": float(len(painted)),
        "flip_requests_settled": float(strict),
        "flip_requests_per_s": len(painted) / seconds,
    }


async def _references(painters: Sequence[Looksmith]) -> Mapping[str, tuple[Picture, ...]]:
    """Every image of the request by version, asked for by number.

    Raises:
        RuntimeError: the two versions do not paint visibly different pictures, or two painters do not agree.
    """
    painted = {
        str(version): [pictures(await painter.paint(request(version))) for painter in painters] for version in (1, 2)
    }
    references = {version: tuple(each[0]) for version, each in painted.items()}
    for image in range(IMAGES):
        if visible_difference(references["1"][image], references["2"][image]) < DIFFERENT_PART:
            raise RuntimeError("the two versions' pictures do not differ enough to be told apart")
        for version, each in painted.items():
            if any(nearest_brand(one[image], image, references) != version for one in each):
                raise RuntimeError(f"a picture of version {version} can't be told from one of the other")
    return references


async def _paint(painter: Looksmith, references: Mapping[str, Sequence[Picture]]) -> Painted:
    accepted_at = 0.0

    def hear(response: pb.GenerateResponse) -> None:
        nonlocal accepted_at
        if response.HasField("accepted"):
            accepted_at = time.monotonic()

    painting = await painter.paint(request(), on_event=hear)
    shown = tuple(int(nearest_brand(one, image, references)) for image, one in enumerate(pictures(painting)))
    (named,) = {adapter.version for adapter in (*painting.accepted.adapters, *painting.finished.adapters)}
    return Painted(accepted_at, named, shown)


async def _flip(changes: RegistryClient, version: int) -> Flip:
    """Moves the alias to the other version: by promotion to the second, by rollback from it."""
    asked_at = time.monotonic()
    if version == 1:
        move = await changes.promote(AdapterRef(BRAND, ADAPTER, 2))
    else:
        move = await changes.rollback(BRAND, ADAPTER)
    if move.alias.version == version:
        raise RuntimeError("the alias has not moved")
    return Flip(move.alias.version, asked_at, time.monotonic())


# Publishing


async def publish_to_picture(folder: Path) -> dict[str, float]:
    """Seconds from the start of a publication to the first picture of a request by alias that it made."""
    took = []
    async with system(folder) as running:
        files = write_brands(PUBLICATIONS + 1, folder / "files")
        await publish(running.changes, files[0])
        for painter in running.painters:
            await painter.paint(request())
        for file in tqdm(files[1:], desc="publications"):
            began = time.perf_counter()
            version = await publish(running.changes, file)
            took.append(await _first_picture(running.painters[0], version) - began)
            await asyncio.sleep(0.5)
    return {"publish_to_picture_s": statistics.median(took), "publish_to_picture_max_s": max(took)}


async def _first_picture(painter: Looksmith, version: int) -> float:
    """When the first picture was there of the first request by alias that was painted with a version."""
    for _ in itertools.count():
        at: list[float] = []

        def hear(response: pb.GenerateResponse, at: list[float] = at) -> None:
            if response.HasField("image_done"):
                at.append(time.perf_counter())

        painting = await painter.paint(request(images=1), on_event=hear)
        if painting.finished.adapters[0].version == version:
            return at[0]
    raise AssertionError
