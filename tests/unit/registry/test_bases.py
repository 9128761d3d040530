"""Bases lie in the registry's bucket, and none of its housekeeping minds them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from looksmith.bases import InMemoryBaseStore, push
from services.registry.collector import Collected
from services.registry.fsck import Checker, Fault
from services.registry.object_store import InMemoryObjectStore
from tests.unit.looksmith.bases.bases_on_disk import a_folder
from tests.unit.registry.parts import Clock, a_core_with_brand, lora_file, publish


async def test_no_collection_check_or_erasure_touches_a_base_or_complains_about_one(tmp_path: Path) -> None:
    # "acme", as the brand: a base may have any name.
    pushed = InMemoryBaseStore()
    push(pushed, a_folder(tmp_path), name="acme")
    assert len(pushed.objects) == 5
    clock = Clock()
    store = InMemoryObjectStore(wall_clock=clock.wall)
    core = await a_core_with_brand(store, clock=clock)
    await publish(core, lora_file("1"))
    for key, data in pushed.objects.items():
        await store.put(key, data)
    clock.seconds += timedelta(days=1000).total_seconds()

    assert await core.collector.collect() == Collected()
    assert [found async for found in Checker(store=store).check(read_files=True) if isinstance(found, Fault)] == []
    await core.eraser.erase("acme")
    await core.collector.collect()
    assert {key: data for key, data in store.objects.items() if key in pushed.objects} == pushed.objects
    assert [found async for found in Checker(store=store).check(read_files=True) if isinstance(found, Fault)] == []
