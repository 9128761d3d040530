"""Checking the store: every kind of damage is told by name, and nothing is said of what is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from looksmith.nouns import AdapterRef, Brand
from services.registry import layout
from services.registry.errors import BrandNotFound
from services.registry.fsck import CheckedBrand, Checker, Fault, FaultKind, Summary
from services.registry.object_store import InMemoryObjectStore
from tests.unit.registry.parts import a_core_with_brand, header_for, lora_file, publish

LOG = layout.adapter_log("acme", "style")


async def a_store() -> InMemoryObjectStore:
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    await core.brands.put(Brand("bolt"))
    for note in "12":
        await publish(core, lora_file(note))
    await publish(core, lora_file("1"), adapter="twin")
    await core.catalog.promote(AdapterRef("acme", "style", 2))
    return store


async def looked(
    store: InMemoryObjectStore, brand: str = "", *, read_files: bool = False
) -> tuple[list[Fault], list[str], Summary]:
    found = [message async for message in Checker(store=store).check(brand, read_files=read_files)]
    faults = [message for message in found if isinstance(message, Fault)]
    *_, summary = found
    assert isinstance(summary, Summary)
    assert summary.faults == len(faults)
    return faults, [message.name for message in found if isinstance(message, CheckedBrand)], summary


def a_file(store: InMemoryObjectStore, note: str = "1") -> str:
    digest = header_for(lora_file(note)).digest
    return next(key for key in store.objects if f"/blobs/{digest}" in key)


async def test_nothing_is_wrong_with_a_good_store_and_a_file_that_two_share_counts_once() -> None:
    store = await a_store()
    faults, brands, summary = await looked(store, read_files=True)
    assert (faults, brands) == ([], ["acme", "bolt"])
    size = len(lora_file("1"))
    assert summary == Summary(
        brands=2, adapters=2, versions=3, file_objects=2, file_bytes=2 * size, records=6
    )  # two brands, two publications and a promotion, and one of the twin
    assert (await looked(store, "bolt"))[2] == Summary(brands=1, records=1)


def lose(key: Callable[[InMemoryObjectStore], str]) -> Callable[[InMemoryObjectStore], None]:
    def damage(store: InMemoryObjectStore) -> None:
        del store.objects[key(store)]

    return damage


def write(key: Callable[[InMemoryObjectStore], str], data: bytes) -> Callable[[InMemoryObjectStore], None]:
    return lambda store: store.objects.update({key(store): data})


def swap(store: InMemoryObjectStore) -> None:
    """Two records change places, each good in itself."""
    first, second = layout.slot(LOG, 1), layout.slot(LOG, 2)
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]


def retell(store: InMemoryObjectStore) -> None:
    """History is made to say something else."""
    key = layout.slot(LOG, 1)
    store.objects[key] = store.objects[key].replace(b'"writer":"replica-0"', b'"writer":"replica-1"')


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lose(a_file), FaultKind.FILE_MISSING),
        (write(a_file, b"short"), FaultKind.FILE_SIZE),
        (write(a_file, lora_file("3")), FaultKind.FILE_DIGEST),
        (write(lambda _: layout.slot(LOG, 2), b"{}"), FaultKind.RECORD_CORRUPT),
        (swap, FaultKind.RECORD_CORRUPT),
        (retell, FaultKind.RECORD_CORRUPT),
        (lose(lambda _: layout.slot(LOG, 2)), FaultKind.RECORD_MISSING),
        (write(lambda _: f"{LOG}notes.txt", b"-"), FaultKind.OBJECT_UNKNOWN),
        (write(lambda _: "r1/mine/x", b"-"), FaultKind.OBJECT_UNKNOWN),
    ],
)
async def test_damage_is_told_by_its_kind(damage: Callable[[InMemoryObjectStore], None], kind: FaultKind) -> None:
    store = await a_store()
    damage(store)
    before = dict(store.objects)
    faults, _, _ = await looked(store, read_files=True)
    assert {fault.kind for fault in faults} == {kind}
    assert store.objects == before


async def test_other_bytes_of_the_same_size_are_found_only_by_reading() -> None:
    store = await a_store()
    write(a_file, lora_file("3"))(store)
    assert (await looked(store))[0] == []


async def test_uploads_that_no_version_names_are_counted_and_are_no_fault() -> None:
    store = await a_store()
    await store.put(f"{layout.everything_of('acme')}blobs/lost", b"12345")
    faults, _, summary = await looked(store, "acme")
    assert (faults, summary.unreferenced_objects, summary.unreferenced_bytes) == ([], 1, 5)


async def test_an_erased_brand_owns_no_bytes_and_what_is_left_of_it_is_a_fault() -> None:
    store = await a_store()
    core = await a_core_with_brand(store)
    await core.eraser.erase("acme")
    faults, _, summary = await looked(store, "acme", read_files=True)
    assert faults == []
    assert (summary.brands, summary.versions, summary.file_bytes, summary.unreferenced_bytes) == (0, 0, 0, 0)
    assert summary.records > 0
    await store.put(f"{layout.everything_of('acme')}blobs/late", b"-")
    assert [fault.kind for fault in (await looked(store))[0]] == [FaultKind.NOT_ERASED]


async def test_a_brand_that_never_was_is_said_to_be_unknown() -> None:
    with pytest.raises(BrandNotFound):
        await looked(await a_store(), "nobody")
