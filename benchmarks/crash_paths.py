"""The ways in which a registry writes, each a call on a brand of its own, and what must hold after one broke off.

How a call is broken off is known elsewhere: crash_points kills processes, the unit tests stop a registry in memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
from safetensors.numpy import save

from benchmarks.lost_answers import FAMILY, small_file
from benchmarks.soundness import Look, Registry, look, unnamed, unsound
from looksmith.errors import DataLoss, LooksmithError
from looksmith.lora import packaged_table
from looksmith.nouns import AdapterRef, Brand
from services.registry.blobs import PART_BYTES
from services.registry.client import measured
from services.registry.messages import PublishHeader
from services.registry.object_store import ObjectStore

Step = Callable[[Registry, str], Awaitable[object]]

#: Number of the file that has several parts.
LARGE, LARGE_FAMILY = 100, "sdxl"
_RANK = 64
_SEEDS = 7_000_000  # apart from those of other benchmarks


@dataclass(frozen=True)
class WritePath:
    """A call that writes.

    Attributes:
        name: what is done.
        prepare: what is done with the brand before.
        call: what is broken off.
        again: what a caller does who got no answer, until it gets one; the default is the same call once more.
        tidies: whether the call leaves nothing of the brand in the store that no version names.
    """

    name: str
    prepare: Sequence[Step]
    call: Step
    again: Step | None = None
    tidies: bool = False

    async def ready(self, registry: Registry, brand: str) -> None:
        for step in self.prepare:
            await step(registry, brand)

    async def repeat(self, registry: Registry, brand: str) -> None:
        await (self.again or self.call)(registry, brand)


@cache
def file(number: int) -> tuple[str, bytes]:
    """Family and bytes of a file that is published, the same for every brand."""
    return (LARGE_FAMILY, large_file()) if number == LARGE else (FAMILY, small_file(_SEEDS + number))


def large_file() -> bytes:
    """An adapter of more than one part."""
    generator, tensors, size = np.random.default_rng(_SEEDS), dict[str, np.ndarray](), 0
    for path, layer in packaged_table(LARGE_FAMILY).components["unet"].items():
        if layer.kind != "linear" or min(*layer.down_shape(_RANK), *layer.up_shape(_RANK)) < _RANK:
            continue
        for half, shape in (("A", layer.down_shape(_RANK)), ("B", layer.up_shape(_RANK))):
            tensors[f"unet.{path}.lora_{half}.weight"] = generator.standard_normal(shape, np.float32)
            size += 4 * math.prod(shape)
        if size > PART_BYTES:
            return save(tensors)
    raise AssertionError("the table has too few layers")


def put(prompt_template: str = "") -> Step:
    return lambda registry, brand: registry.put_brand(Brand(brand, prompt_template=prompt_template))


def publish(adapter: str, number: int, *, request_id: bool = True, aliases: tuple[str, ...] = ()) -> Step:
    async def step(registry: Registry, brand: str) -> None:
        family, data = file(number)
        called = f"{adapter}-{number}" if request_id else ""
        header = PublishHeader(brand, adapter, family, *measured([data]), aliases=aliases, request_id=called)
        await registry.publish(header, [data])

    return step


def leave_garbage(number: int) -> Step:
    """Publishes a file of several parts that turns out not to be what was announced."""

    async def step(registry: Registry, brand: str) -> None:
        family, data = file(number)
        with suppress(DataLoss):
            await registry.publish(PublishHeader(brand, "style", family, "0" * 64, len(data)), [data])

    return step


async def until_garbage_is_old(registry: Registry, _brand: str) -> None:
    while (await registry.collect_garbage(dry_run=True)).young_objects:  # noqa: ASYNC110  # a collector tells who asks
        await asyncio.sleep(1)


async def collect_garbage(registry: Registry, _brand: str) -> None:
    await registry.collect_garbage()


async def delete_brand(registry: Registry, brand: str) -> None:
    await registry.delete_brand(brand, confirm_name=brand)


def promote(version: int) -> Step:
    return lambda registry, brand: registry.promote(AdapterRef(brand, "style", version), reason="better")


def set_alias(alias: str, version: int) -> Step:
    return lambda registry, brand: registry.set_alias(brand, "style", alias, version, reason="to be tried")


def yank(version: int, *, replacement: int = 0, force: bool = False) -> Step:
    return lambda registry, brand: registry.yank(
        brand, "style", version, replacement=replacement, force=force, reason="the old logo"
    )


async def rollback(registry: Registry, brand: str) -> None:
    await registry.rollback(brand, "style", reason="worse")


async def rollback_unless_done(registry: Registry, brand: str) -> None:
    """Twice is back where it was, so who does not know looks first."""
    if (await registry.resolve(AdapterRef(brand, "style"))).version.version == 2:
        await rollback(registry, brand)


TWO_VERSIONS = (put(), publish("style", 0), publish("style", 1))

PATHS = (
    WritePath("PutBrand, a new one", (), put()),
    WritePath("PutBrand, a known one", (put(),), put("{prompt}, in its look")),
    WritePath("publish a first version", (put(),), publish("style", 0)),
    WritePath("publish a next version", TWO_VERSIONS[:2], publish("style", 1)),
    WritePath("publish without request id", TWO_VERSIONS[:2], publish("style", 1, request_id=False)),
    WritePath("publish into production", TWO_VERSIONS, publish("style", 2, aliases=("production", "canary"))),
    WritePath("publish the same bytes elsewhere", TWO_VERSIONS, publish("logo", 0)),
    WritePath("SetAlias", TWO_VERSIONS, set_alias("canary", 2)),
    WritePath("promote", TWO_VERSIONS, promote(2)),
    WritePath("rollback", (*TWO_VERSIONS, promote(2)), rollback, again=rollback_unless_done),
    WritePath("yank", TWO_VERSIONS, yank(2)),
    WritePath("yank with a replacement", TWO_VERSIONS, yank(1, replacement=2)),
    WritePath("yank by force", TWO_VERSIONS, yank(1, force=True)),
    WritePath("DeleteBrand", (*TWO_VERSIONS[:2], publish("logo", 1)), delete_brand, tidies=True),
    WritePath("publish after an erasure", (*TWO_VERSIONS[:2], delete_brand, put()), publish("style", 0)),
)


def publishing_in_parts(number: int) -> WritePath:
    """Of a file of several parts."""
    return WritePath("publish in parts", TWO_VERSIONS, publish("style", number))


def collecting(number: int) -> WritePath:
    """Garbage, of which a file of several parts is made: what is left of a small one that failed is nothing."""
    prepare = (*TWO_VERSIONS, leave_garbage(number), until_garbage_is_old)
    return WritePath("CollectGarbage", prepare, collect_garbage, tidies=True)


async def faults_after(
    path: WritePath, *, brand: str, registry: Registry, store: ObjectStore, before: Look, after: Look
) -> list[str]:
    """What is wrong once the path's call broke off, and once it was repeated.

    Args:
        path: whose call it was.
        brand: on which it was made.
        registry: another one than broke off, on the same store.
        store: beneath both.
        before: what was shown before the call.
        after: what is shown after a call that nobody disturbed.
    """
    faults: list[str] = []
    try:
        now = await look(registry, brand)
        faults += [*now.faults, *await unsound(store, brand)]
        for name in {*before.pieces, *after.pieces, *now.pieces}:
            allowed = (before.pieces.get(name), after.pieces.get(name))
            if now.pieces.get(name) not in allowed:
                faults.append(f"{name} stands neither as before nor as after: {now.pieces.get(name)}")
        await path.repeat(registry, brand)
        now = await look(registry, brand)
    except LooksmithError as error:
        return [*faults, f"a call afterwards failed: {error.reason}: {error.message}"]
    faults += [*now.faults, *await unsound(store, brand)]
    if now.pieces != after.pieces:
        faults.append(f"repeating the call ends in {now.pieces}")
    if path.tidies and (left := await unnamed(store, brand)):
        faults.append(f"repeating the call leaves {left}")
    return faults
