"""What is damaged in a store, or told wrongly by a registry, is noticed; an undamaged one has no faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.crash_paths import promote, publish, put
from benchmarks.soundness import look, unsound
from looksmith.nouns import AdapterRef, AdapterVersion, Resolved
from services.registry import layout
from services.registry.client import FakeRegistryClient
from services.registry.messages import Page

BRAND = "acme"
RECORDS = [layout.slot(layout.adapter_log(BRAND, "style"), seq) for seq in (1, 2, 3)]

Objects = dict[str, bytes]


async def filled(registry: FakeRegistryClient) -> FakeRegistryClient:
    """The registry with two versions and one move of an alias: three records."""
    for step in (put(), publish("style", 0), publish("style", 1), promote(2)):
        await step(registry, BRAND)
    return registry


def a_file(objects: Objects) -> str:
    return next(key for key in objects if key.startswith(f"r1/b/{BRAND}/blobs/"))


def without_a_file(objects: Objects) -> None:
    del objects[a_file(objects)]


def with_a_flipped_bit(objects: Objects) -> None:
    key = a_file(objects)
    objects[key] = objects[key][:-1] + bytes([objects[key][-1] ^ 1])


def without_the_second_record(objects: Objects) -> None:
    del objects[RECORDS[1]]


def with_a_record_at_another_place(objects: Objects) -> None:
    objects[RECORDS[2]] = objects[RECORDS[1]]


def with_a_record_rewritten(objects: Objects) -> None:
    record = json.loads(objects[RECORDS[0]])
    objects[RECORDS[0]] = json.dumps({**record, "writer": "somebody else"}).encode()


def with_half_a_record(objects: Objects) -> None:
    objects[RECORDS[2]] = objects[RECORDS[2]][:100]


async def test_an_undamaged_store_has_no_faults() -> None:
    registry = await filled(FakeRegistryClient())
    shown = await look(registry, BRAND)
    assert (shown.faults, await unsound(registry.store, BRAND)) == ((), [])
    assert [*shown.pieces] == ["the record", "style"]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (without_a_file, "is missing"),
        (with_a_flipped_bit, "has other bytes than its digest says"),
        (without_the_second_record, "is record 3, at place 2"),
        (with_a_record_at_another_place, "is record 2, at place 3"),
        (with_a_record_rewritten, "does not follow from the record before"),
        (with_half_a_record, "can't be read"),
    ],
)
async def test_what_a_store_lacks_or_holds_wrongly_is_told(damage: Callable[[Objects], None], what: str) -> None:
    registry = await filled(FakeRegistryClient())
    damage(registry.store.objects)
    assert what in "; ".join(await unsound(registry.store, BRAND))


@pytest.mark.parametrize("damage", [without_a_file, with_a_flipped_bit])
async def test_a_file_that_cannot_be_downloaded_as_published_is_told(damage: Callable[[Objects], None]) -> None:
    registry = await filled(FakeRegistryClient())
    damage(registry.store.objects)
    (fault,) = (await look(registry, BRAND)).faults
    assert fault.startswith("style@1 ")


class Forgetful(FakeRegistryClient):
    """Shows no first version."""

    async def list_versions(self, *names: str, **page: object) -> Page[AdapterVersion]:
        found = await super().list_versions(*names, **page)  # type: ignore[arg-type]  # passed on as they come
        return Page(found.items[:1])


class Confused(FakeRegistryClient):
    """Resolves whatever is asked for to a version of another note."""

    async def resolve(self, ref: AdapterRef, *, min_seq: int = 0, deadline_s: float = 0) -> Resolved:
        found = await super().resolve(ref)
        return replace(found, version=replace(found.version, note="another"))


@pytest.mark.parametrize(("registry", "fault"), [(Forgetful(), "style has the versions [2]"), (Confused(), "resolved")])
async def test_a_registry_that_tells_what_is_not_so_is_noticed(registry: FakeRegistryClient, fault: str) -> None:
    faults = (await look(await filled(registry), BRAND)).faults
    assert fault in "; ".join(faults)
