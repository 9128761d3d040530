"""Collecting what nothing refers to: all of it once it is old, and never what a publication may still name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from looksmith.nouns import AdapterRef
from services.registry import layout
from services.registry.collector import Collected
from services.registry.core import Core
from services.registry.errors import StoreUnavailable
from services.registry.object_store import InMemoryObjectStore
from tests.unit.registry.parts import Clock, a_core, a_core_with_brand, header_for, lora_file, publish

GRACE_S = 3 * 86400.0


class Scene:
    """A store and a registry on one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = InMemoryObjectStore(wall_clock=self.clock.wall)

    async def core(self) -> Core:
        return await a_core_with_brand(self.store, clock=self.clock)

    def pass_days(self, days: float) -> None:
        self.clock.seconds += timedelta(days=days).total_seconds()

    async def lose_a_file(self, name: str, size: int = 10) -> str:
        """What a publication that died before its commit leaves behind."""
        key = f"{layout.everything_of('acme')}blobs/{name}"
        await self.store.put(key, b"-" * size)
        return key


async def test_what_nothing_names_goes_once_it_is_old_and_what_versions_name_never() -> None:
    scene = Scene()
    core = await scene.core()
    await publish(core, lora_file("1"))
    lost = await scene.lose_a_file("lost")
    scene.pass_days(2)
    assert await core.collector.collect() == Collected(young_objects=1, young_bytes=10)
    young = await scene.lose_a_file("young", 5)
    scene.pass_days(2)
    assert await core.collector.collect() == Collected(1, 10, 1, 5)
    assert lost not in scene.store.objects
    assert young in scene.store.objects
    for _ in range(3):
        scene.pass_days(100)
        await core.collector.collect()
    digest = header_for(lora_file("1")).digest
    assert b"".join([piece async for piece in await core.catalog.open("acme", digest)]) == lora_file("1")
    assert young not in scene.store.objects
    assert not [key for key in scene.store.objects if key.startswith(layout.CLOCK)]


async def test_yanked_and_unaliased_versions_keep_their_files() -> None:
    scene = Scene()
    core = await scene.core()
    for note in "12":
        await publish(core, lora_file(note))
    await core.catalog.yank(AdapterRef("acme", "style", 1), reason="old", replacement=2)
    scene.pass_days(30)
    assert await a_core(scene.store, clock=scene.clock).collector.collect() == Collected()
    assert b"".join([piece async for piece in await core.catalog.open("acme", header_for(lora_file("1")).digest)])


async def test_a_dry_run_tells_and_deletes_nothing() -> None:
    scene = Scene()
    core = await scene.core()
    lost = await scene.lose_a_file("lost")
    scene.pass_days(4)
    assert await core.collector.collect(dry_run=True) == Collected(1, 10)
    assert lost in scene.store.objects


async def test_a_version_that_another_replica_published_a_moment_ago_is_known() -> None:
    """A collector's memory of a log may be older than the file that it sees."""
    scene = Scene()
    first = await scene.core()
    await publish(first, lora_file("1"))
    second = a_core(scene.store, clock=scene.clock, max_age_s=1e9)
    await second.catalog.reconcile()
    await publish(first, lora_file("2"))
    await publish(first, lora_file("3"), adapter="another")
    scene.pass_days(4)
    assert await second.collector.collect() == Collected()


async def test_a_brand_whose_log_cannot_be_read_keeps_everything() -> None:
    scene = Scene()
    await publish(await scene.core(), lora_file("1"))
    lost = await scene.lose_a_file("lost")
    scene.store.objects[layout.slot(layout.adapter_log("acme", "style"), 1)] = b"{"
    scene.pass_days(4)
    assert await a_core(scene.store, clock=scene.clock).collector.collect() == Collected()
    assert lost in scene.store.objects


async def test_a_store_that_cannot_be_listed_ends_the_run_and_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    core = await scene.core()
    await scene.lose_a_file("lost")
    scene.pass_days(4)
    listing = scene.store.listing

    async def listed(prefix: str, *, start_after: str = "", limit: int = 1000) -> object:
        if start_after:
            raise StoreUnavailable("planted")
        return await listing(prefix, limit=limit)

    monkeypatch.setattr(scene.store, "listing", listed)
    before = dict(scene.store.objects)
    with pytest.raises(StoreUnavailable):
        await core.collector.collect()
    assert scene.store.objects == before


async def test_bytes_that_are_being_deleted_can_be_published_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each publication brings the bytes of the object that is deleted the moment after."""
    scene = Scene()
    core = await scene.core()
    files = {header_for(data).digest: data for data in (lora_file(str(i)) for i in range(20))}
    for digest, data in files.items():
        await scene.store.put(layout.blob("acme", digest, "lost"), data)
    scene.pass_days(4)
    delete, published = scene.store.delete, 0

    async def late_delete(key: str) -> None:
        nonlocal published
        if found := [data for digest, data in files.items() if digest in key]:
            await publish(core, found[0])
            published += 1
        await delete(key)

    monkeypatch.setattr(scene.store, "delete", late_delete)
    collected = await a_core(scene.store, clock=scene.clock, seed=1).collector.collect()
    assert (collected.deleted_objects, published) == (len(files), len(files))
    assert [found async for found in core.checker.check(read_files=True)][-1].faults == 0  # type: ignore[union-attr]  # the summary is last
    for digest, data in files.items():
        assert b"".join([piece async for piece in await core.catalog.open("acme", digest)]) == data
