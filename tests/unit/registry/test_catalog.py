"""What a replica answers from memory, from the store, and while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from looksmith.nouns import AdapterRef, Brand
from services.registry import layout, paging
from services.registry.core import Core
from services.registry.errors import (
    AdapterNotFound,
    AdapterYanked,
    BrandNotFound,
    DigestNotFound,
    RecordCorrupt,
    SeqNotReached,
    StoreUnavailable,
)
from services.registry.messages import Page
from services.registry.object_store import InMemoryObjectStore
from tests.unit.registry.parts import Clock, FaultyStore, a_core, a_core_with_brand, lora_file, publish

STYLE = AdapterRef("acme", "style")

T = TypeVar("T")


async def test_a_fresh_memory_answers_without_the_store() -> None:
    faulty, clock = FaultyStore(InMemoryObjectStore()), Clock()
    core = await a_core_with_brand(faulty, clock=clock, max_age_s=1)
    await publish(core, lora_file())
    asked = len(faulty.calls)
    clock.seconds += 0.4
    await core.catalog.resolve(STYLE)
    await asyncio.sleep(0.01)
    assert len(faulty.calls) == asked
    clock.seconds += 0.7
    await core.catalog.resolve(STYLE)
    assert faulty.calls[asked:] == ["get"]


async def test_a_memory_that_grows_old_is_renewed_before_anyone_has_to_wait_for_it() -> None:
    inner, clock = InMemoryObjectStore(), Clock()
    core = await a_core_with_brand(FaultyStore(inner), clock=clock, max_age_s=1)
    await publish(core, lora_file("1"))
    await publish(a_core(inner, seed=1), lora_file("2"), aliases=("production",))
    clock.seconds += 0.6
    inner.reachable = False  # a renewal that fails hurts nobody
    assert (await core.catalog.resolve(STYLE)).version.version == 1
    await asyncio.sleep(0.01)
    inner.reachable = True
    for _ in range(100):  # however many ask, one looks
        assert (await core.catalog.resolve(STYLE)).version.version == 1
    await asyncio.sleep(0.01)
    assert (await core.catalog.resolve(STYLE)).version.version == 2


async def test_ten_minutes_without_the_store_pass_without_one_failed_read() -> None:
    store, clock = InMemoryObjectStore(), Clock()
    core = await a_core_with_brand(store, clock=clock, max_age_s=1)
    for note in ("1", "2"):
        await publish(core, lora_file(note))
    clock.seconds = 1000.0
    confirmed = clock.wall()
    await core.catalog.reconcile()
    store.reachable = False
    loops = [asyncio.create_task(core.feed.follow(core.catalog.refresh)), asyncio.create_task(core.collector.run(60))]
    for second in range(1, 601):
        clock.seconds = 1000.0 + second
        await asyncio.sleep(0)
        resolved = await core.catalog.resolve(AdapterRef("acme", "style", second % 2 + 1))
        assert (resolved.version.version, resolved.stale_since) == (second % 2 + 1, confirmed)
        assert (await core.brands.get("acme")).name == "acme"
        assert len((await core.catalog.list_versions("acme", "style", 10, "")).items) == 2
        assert [adapter.seq for adapter in await core.catalog.everything()] == [2]
        if second % 100 == 0:
            with pytest.raises(StoreUnavailable):
                await publish(core, lora_file("3"))
    store.reachable = True
    clock.seconds += 2
    assert (await core.catalog.resolve(STYLE)).stale_since is None
    assert (await publish(core, lora_file("3"))).version.version == 3
    assert not any(loop.done() for loop in loops)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_a_replica_sees_what_another_wrote_once_its_memory_is_old() -> None:
    store, clock = InMemoryObjectStore(), Clock()
    writer = await a_core_with_brand(store)
    reader = a_core(store, clock=clock, seed=1, max_age_s=1)
    await publish(writer, lora_file("1"))
    assert (await reader.catalog.resolve(STYLE)).version.version == 1
    await publish(writer, lora_file("2"), aliases=("production",))
    assert (await reader.catalog.resolve(STYLE)).version.version == 1
    clock.seconds += 1.1
    assert (await reader.catalog.resolve(STYLE)).version.version == 2


async def test_min_seq_makes_a_replica_read_the_store_first() -> None:
    store = InMemoryObjectStore()
    writer, reader = await a_core_with_brand(store), a_core(store, seed=1, max_age_s=1000)
    await publish(writer, lora_file("1"))
    await reader.catalog.resolve(STYLE)
    await publish(writer, lora_file("2"))
    move = await writer.catalog.promote(AdapterRef("acme", "style", 2))
    resolved = await reader.catalog.resolve(STYLE, min_seq=move.seq)
    assert (resolved.version.version, resolved.seq) == (2, 3)
    with pytest.raises(SeqNotReached):
        await reader.catalog.resolve(STYLE, min_seq=4)


async def test_with_the_store_away_memory_answers_and_says_since_when() -> None:
    store, clock = InMemoryObjectStore(), Clock()
    core = await a_core_with_brand(store, clock=clock)
    await publish(core, lora_file())
    clock.seconds = 10.0
    confirmed = clock.wall()
    assert (await core.catalog.resolve(STYLE)).stale_since is None
    store.reachable = False
    for seconds in (20.0, 20.5, 600.0):
        clock.seconds = seconds
        resolved = await core.catalog.resolve(STYLE)
        assert (resolved.version.version, resolved.stale_since) == (1, confirmed)
    assert (await core.brands.get("acme")).name == "acme"
    store.reachable = True
    clock.seconds = 602.0
    assert (await core.catalog.resolve(STYLE)).stale_since is None


async def test_a_store_that_just_failed_is_not_asked_again_at_once() -> None:
    inner, clock = InMemoryObjectStore(), Clock()
    faulty = FaultyStore(inner)
    core = await a_core_with_brand(faulty, clock=clock)
    await publish(core, lora_file())
    inner.reachable = False
    asked = len(faulty.calls)
    for _ in range(5):
        await core.catalog.resolve(STYLE)
    assert len(faulty.calls) == asked + 1


async def test_with_the_store_away_what_was_never_seen_is_unavailable_and_not_missing() -> None:
    store = InMemoryObjectStore()
    core = a_core(store)
    store.reachable = False
    for call in (
        core.catalog.resolve(STYLE),
        core.brands.get("acme"),
        core.catalog.list_adapters("", 10, ""),
        core.catalog.promote(STYLE),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert caught.value.retry_after_s


async def test_with_the_store_away_memory_behind_min_seq_is_not_enough() -> None:
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    await publish(core, lora_file())
    store.reachable = False
    with pytest.raises(StoreUnavailable):
        await core.catalog.resolve(STYLE, min_seq=2)


async def test_after_reconciling_memory_answers_for_what_was_never_asked_for() -> None:
    store = InMemoryObjectStore()
    await publish(await a_core_with_brand(store), lora_file())
    fresh = a_core(store, seed=1)
    await fresh.brands.reconcile()
    await fresh.catalog.reconcile()
    store.reachable = False
    assert (await fresh.catalog.resolve(STYLE)).version.version == 1
    assert (await fresh.brands.get("acme")).version == 1


async def test_a_replica_finds_a_file_that_another_just_published_and_no_other_brand_can_fetch_it() -> None:
    store = InMemoryObjectStore()
    writer, reader = await a_core_with_brand(store), a_core(store, seed=1)
    await writer.brands.put(Brand("bolt"))
    data = lora_file()
    digest = (await publish(writer, data)).version.digest
    assert b"".join([piece async for piece in await reader.catalog.open("acme", digest)]) == data
    with pytest.raises(DigestNotFound):
        await reader.catalog.open("bolt", digest)


async def test_asking_for_names_that_do_not_exist_leaves_nothing_in_memory() -> None:
    core = a_core(InMemoryObjectStore())
    for n in range(100):
        with pytest.raises(AdapterNotFound):
            await core.catalog.get("acme", f"style-{n}")
        with pytest.raises(BrandNotFound):
            await core.brands.get(f"brand-{n}")
    assert len(core.catalog._adapters._in_use) == 0
    assert core.catalog._adapters._kept == {}


async def test_a_record_that_can_t_be_read_is_missing_alone() -> None:
    store = InMemoryObjectStore()
    writer = await a_core_with_brand(store)
    for brand in ("bolt", "cut"):
        await writer.brands.put(Brand(brand))
        await publish(writer, lora_file(brand), brand=brand)
    for log in (layout.brand_log("bolt"), layout.adapter_log("bolt", "style")):
        store.objects[layout.slot(log, 1)] = b"{}"
    reader = a_core(store, seed=1)
    await reader.brands.reconcile()
    await reader.catalog.reconcile()
    assert [brand.name for brand in (await reader.brands.list_brands(10, "")).items] == ["acme", "cut"]
    assert [adapter.brand for adapter in (await reader.catalog.list_adapters("", 10, "")).items] == ["cut"]
    assert (await reader.catalog.resolve(AdapterRef("cut", "style"))).version.version == 1
    with pytest.raises(RecordCorrupt):
        await reader.catalog.resolve(AdapterRef("bolt", "style"))
    with pytest.raises(RecordCorrupt):
        await reader.brands.get("bolt")


async def test_pages_too_large_for_a_message_are_shorter_and_nothing_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = await a_core_with_brand()
    for number in range(12):
        await publish(core, lora_file(str(number)), note="n" * 1000)
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 5000)

    async def walk(list_page: Callable[[str], Awaitable[Page[T]]]) -> list[list[T]]:
        pages: list[list[T]] = []
        token = ""
        while not pages or token:
            page = await list_page(token)
            pages.append(list(page.items))
            token = page.next_token
        return pages

    versions = await walk(lambda token: core.catalog.list_versions("acme", "style", 1000, token))
    assert [version.version for page in versions for version in page] == [*range(12, 0, -1)]
    assert {len(page) for page in versions} <= {1, 2, 3, 4}
    events = await walk(lambda token: core.catalog.history("acme", "style", 1000, token))
    assert [event.seq for page in events for event in page] == [*range(12, 0, -1)]
    assert len(events) > 1


async def two_replicas_of_which_one_yanked() -> tuple[Core, Core]:
    """The one that yanked acme/style@2, which has the file "2", and one that remembers only the version before."""
    store = InMemoryObjectStore()
    here, there = await a_core_with_brand(store), a_core(store, seed=1, max_age_s=1000)
    await publish(here, lora_file("1"))
    await there.catalog.resolve(STYLE)
    await publish(here, lora_file("2"))
    await here.catalog.yank(AdapterRef("acme", "style", 2), reason="the old logo")
    return here, there


async def test_a_replica_of_old_memory_moves_no_alias_to_what_another_yanked() -> None:
    here, there = await two_replicas_of_which_one_yanked()
    with pytest.raises(AdapterYanked):
        await there.catalog.promote(AdapterRef("acme", "style", 2))
    assert (await here.catalog.resolve(STYLE)).version.version == 1


async def test_an_upload_of_what_was_yanked_while_it_came_is_refused_and_makes_no_version() -> None:
    here, there = await two_replicas_of_which_one_yanked()
    with pytest.raises(AdapterYanked):
        await publish(there, lora_file("2"))
    assert (await here.catalog.get("acme", "style")).latest_version == 2
