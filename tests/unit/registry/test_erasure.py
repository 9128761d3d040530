"""Erasing a brand: nothing but digests and times is left, whatever happens meanwhile and wherever it breaks off."""

from __future__ import annotations

import asyncio

import pytest

from looksmith.nouns import AdapterRef, Brand
from services.registry import layout
from services.registry.core import Core
from services.registry.errors import BrandNotFound, RecordCorrupt, StoreUnavailable
from services.registry.object_store import InMemoryObjectStore
from services.registry.watch import BrandErased, Changed
from tests.unit.registry.parts import FaultyStore, a_core, a_core_with_brand, header_for, lora_file, publish

#: What people wrote, wherever they could.
TEXT = "Zanzibar"


async def a_telling_core(store: object) -> Core:
    """Brand acme with text in every field that takes some, and brand bolt that has the same file."""
    core = await a_core_with_brand(store)  # type: ignore[arg-type]  # a FaultyStore keeps the contract
    await core.brands.put(Brand("acme", display_name=TEXT, prompt_template=f"{TEXT} {{prompt}}"))
    await core.brands.put(Brand("bolt", display_name="Bolt"))
    texts = {"note": TEXT, "publisher": TEXT, "request_id": TEXT, "labels": {TEXT: TEXT}}
    await publish(core, lora_file("1"), **texts)
    await publish(core, lora_file("2"), note=TEXT)
    await publish(core, lora_file("1"), brand="bolt", note="Bolt's")
    await core.catalog.set_alias(TEXT.lower(), AdapterRef("acme", "style", 2), reason=TEXT)
    await core.catalog.yank(AdapterRef("acme", "style", 1), reason=TEXT, replacement=2)
    return core


def left_of(store: InMemoryObjectStore, brand: str) -> dict[str, bytes]:
    return {key: data for key, data in store.objects.items() if key.startswith(layout.everything_of(brand))}


def assert_erased(store: InMemoryObjectStore) -> None:
    left = left_of(store, "acme")
    assert left
    for key, data in left.items():
        assert layout.is_record("acme", key), key
        assert TEXT.lower() not in data.decode().lower(), key


async def test_files_and_text_are_gone_and_digests_and_times_stay() -> None:
    store = InMemoryObjectStore()
    core = await a_telling_core(store)
    bolts = left_of(store, "bolt")
    assert TEXT in str(left_of(store, "acme"))
    freed = await core.eraser.erase("acme")
    assert freed == len(lora_file("1")) + len(lora_file("2"))
    assert_erased(store)
    assert header_for(lora_file("1")).digest in str(left_of(store, "acme"))
    assert left_of(store, "bolt") == bolts
    assert b"".join([piece async for piece in await core.catalog.open("bolt", header_for(lora_file("1")).digest)])


async def test_a_replica_that_remembers_the_brand_learns_that_it_is_gone_and_so_do_its_watchers() -> None:
    store = InMemoryObjectStore()
    core = await a_telling_core(store)
    other = a_core(store)
    await other.catalog.reconcile()
    messages = other.watches.messages("", lambda _: True)
    assert [type(await anext(messages)).__name__ for _ in range(3)] == ["InSnapshot", "InSnapshot", "SnapshotEnd"]
    await core.eraser.erase("acme")
    await other.catalog.refresh("acme", "style", 99)
    erased, changed = await anext(messages), await anext(messages)
    assert isinstance(erased, BrandErased)
    assert (erased.brand, set(erased.digests)) == ("acme", {header_for(lora_file(note)).digest for note in "12"})
    assert isinstance(changed, Changed)
    assert (changed.adapter.latest_version, changed.adapter.aliases) == (0, ())
    late = other.watches.messages("", lambda _: True)
    assert [type(await anext(late)).__name__ for _ in range(3)] == ["InSnapshot", "BrandErased", "SnapshotEnd"]
    with pytest.raises(BrandNotFound):
        await publish(other, lora_file("3"))


async def test_a_brand_that_breaks_off_at_any_store_call_is_erased_by_the_next_try() -> None:
    calls = 1
    broken_off = 0
    while True:
        inner = InMemoryObjectStore()
        await a_telling_core(inner)
        faulty = FaultyStore(inner)
        core = a_core(faulty)

        def fail(_name: str, number: int, limit: int = calls) -> None:
            if number >= limit:
                raise StoreUnavailable("planted")

        faulty.before = fail
        try:
            await core.eraser.erase("acme")
        except StoreUnavailable:
            broken_off += 1
        else:
            break
        again = a_core(inner)
        await again.eraser.erase("acme")
        assert_erased(inner)
        assert await again.eraser.is_done("acme")
        calls += 1
    assert broken_off > 20
    assert_erased(inner)


@pytest.mark.parametrize("adapter", ["style", "another"])
async def test_a_publication_that_is_under_way_never_ends(adapter: str) -> None:
    """At its last moment, the adapter's log being there or not, the brand is erased."""
    inner = InMemoryObjectStore()
    await a_telling_core(inner)
    faulty = FaultyStore(inner)
    core = a_core(faulty)
    reached, go_on = asyncio.Event(), asyncio.Event()
    create = faulty.inner.create_if_absent

    async def late_create(key: str, data: bytes) -> object:
        if layout.adapter_log("acme", adapter) in key and not reached.is_set():
            reached.set()
            await go_on.wait()
        return await create(key, data)

    faulty.inner.create_if_absent = late_create  # type: ignore[method-assign, assignment]  # stepped in between
    publishing = asyncio.create_task(publish(core, lora_file("3"), adapter=adapter, note=TEXT))
    await asyncio.wait_for(reached.wait(), 5)
    await a_core(inner).eraser.erase("acme")
    go_on.set()
    with pytest.raises(BrandNotFound):
        await publishing
    last = a_core(inner)
    assert [found.brand for found in await last.catalog.everything()] == ["bolt"]
    await last.collector.collect()
    assert_erased(inner)


async def test_a_record_that_cannot_be_read_keeps_nothing_else_from_being_erased() -> None:
    store = InMemoryObjectStore()
    core = await a_telling_core(store)
    await publish(core, lora_file("1"), adapter="broken")
    key = layout.slot(layout.adapter_log("acme", "broken"), 1)
    store.objects[key] = b"{"
    with pytest.raises(RecordCorrupt, match="broken"):
        await a_core(store).eraser.erase("acme")
    assert store.objects.pop(key) == b"{"
    assert_erased(store)


async def test_a_second_life_can_be_erased_too() -> None:
    store = InMemoryObjectStore()
    core = await a_telling_core(store)
    await core.eraser.erase("acme")
    await core.brands.put(Brand("acme", display_name=TEXT))
    await publish(core, lora_file("4"), note=TEXT)
    assert (await core.catalog.resolve(AdapterRef("acme", "style"))).version.version == 3
    await core.eraser.erase("acme")
    assert_erased(store)
    faults = [found async for found in core.checker.check("acme")][:-2]
    assert faults == []
