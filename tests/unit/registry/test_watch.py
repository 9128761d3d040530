"""Watching adapters: what there is, then every change, through lost connections, slow readers and other replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from random import Random

import grpc
import pytest

from looksmith.nouns import Adapter, AdapterRef, Brand
from services.chassis.server import grpc_server
from services.registry import layout
from services.registry.client import RegistryClient
from services.registry.compose import apis
from services.registry.core import Core
from services.registry.errors import RegistryStopping
from services.registry.feed import Feed
from services.registry.object_store import InMemoryObjectStore
from services.registry.watch import Changed, Heartbeat, InSnapshot, Message, SnapshotEnd, Watches
from tests.unit.registry.parts import Clock, a_core, a_core_with_brand, lora_file, publish, surroundings
from tests.unit.registry.test_client import SETTINGS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def adapter(seq: int, brand: str = "acme", name: str = "style") -> Adapter:
    return Adapter(brand, name, latest_version=1, aliases=(), seq=seq, create_time=NOW, update_time=NOW)


class Known:
    """Adapters as a catalog would have them, and watches over them."""

    def __init__(self, *, kept: int = 100, heartbeat_s: float = 60.0) -> None:
        self.adapters: dict[tuple[str, str], Adapter] = {}
        self.stale_since: datetime | None = None
        self.watches = Watches(
            everything=self._everything,
            stale_since=lambda: self.stale_since,
            incarnation="i1",
            heartbeat_s=heartbeat_s,
            kept=kept,
        )

    async def _everything(self) -> list[Adapter]:
        await asyncio.sleep(0)
        return list(self.adapters.values())

    def change(self, one: Adapter) -> None:
        self.adapters[one.brand, one.name] = one
        self.watches.changed(one)

    def watch(self, cursor: str = "", brand: str = "") -> AsyncGenerator[Message, None]:
        return self.watches.messages(cursor, lambda name: name == brand if brand else True)


async def read(messages: AsyncIterator[Message], count: int) -> list[Message]:
    async with asyncio.timeout(5):
        return [await anext(messages) for _ in range(count)]


async def test_a_watch_begins_with_what_there_is_and_goes_on_with_each_change() -> None:
    known = Known()
    known.change(adapter(1))
    messages = known.watch()
    first, end = await read(messages, 2)
    assert first == InSnapshot(adapter(1), "")
    assert end == SnapshotEnd(1, "i1.1")
    waiting = asyncio.create_task(read(messages, 1))
    await asyncio.sleep(0)
    known.change(adapter(2))
    assert await waiting == [Changed(adapter(2), "i1.2")]


async def test_a_watch_ends_when_the_registry_stops_and_so_does_one_that_begins_then() -> None:
    known = Known()
    messages = known.watch()
    await read(messages, 1)
    waiting = asyncio.create_task(read(messages, 1))
    await asyncio.sleep(0)
    known.watches.stop()
    with pytest.raises(RegistryStopping):
        await waiting
    with pytest.raises(RegistryStopping):
        await read(known.watch(), 1)


async def test_what_changes_while_the_snapshot_is_sent_is_told_after_it() -> None:
    known = Known()
    known.change(adapter(1))
    messages = known.watch()
    await read(messages, 1)
    known.change(adapter(2))
    assert await read(messages, 2) == [SnapshotEnd(1, "i1.1"), Changed(adapter(2), "i1.2")]


async def test_a_cursor_brings_back_what_was_missed_and_no_more() -> None:
    known = Known()
    for seq in (1, 2, 3):
        known.change(adapter(seq))
    known.change(adapter(7, name="other"))
    assert await read(known.watch("i1.2"), 2) == [Changed(adapter(3), ""), Changed(adapter(7, name="other"), "i1.4")]
    assert await read(known.watch("i1.4", brand="acme"), 0) == []


@pytest.mark.parametrize(
    "cursor", ["", "i0.2", "i1.x", "i1.-1", "i1.99", "i1.", "nonsense", "i1." + "9" * 5000, "i1.²"]
)
async def test_a_cursor_of_nothing_known_begins_with_a_snapshot(cursor: str) -> None:
    known = Known()
    known.change(adapter(1))
    assert await read(known.watch(cursor), 2) == [InSnapshot(adapter(1), ""), SnapshotEnd(1, "i1.1")]


async def test_a_watcher_that_is_too_far_behind_gets_a_snapshot_and_one_that_is_slow_the_newest_alone() -> None:
    known = Known(kept=10)
    slow, slower = known.watch(), known.watch()
    for watcher in (slow, slower):
        await read(watcher, 1)
    for seq in range(1, 6):
        known.change(adapter(seq))
    assert await read(slow, 1) == [Changed(adapter(5), "i1.5")]
    for seq in range(6, 20):
        known.change(adapter(seq))
    assert await read(slower, 2) == [InSnapshot(adapter(19), ""), SnapshotEnd(1, "i1.19")]


async def test_old_news_is_no_news() -> None:
    known = Known()
    known.change(adapter(2))
    known.watches.changed(adapter(1))
    known.watches.changed(adapter(2))
    assert await read(known.watch("i1.0"), 1) == [Changed(adapter(2), "i1.1")]


async def test_silence_is_told_and_since_when_the_store_is_away() -> None:
    known = Known(heartbeat_s=0.01)
    messages = known.watch()
    await read(messages, 1)
    assert await read(messages, 1) == [Heartbeat(None, "i1.0")]
    known.stale_since = NOW
    assert await read(messages, 1) == [Heartbeat(NOW, "i1.0")]


async def test_a_watcher_of_one_brand_hears_of_no_other() -> None:
    known = Known(heartbeat_s=0.01)
    known.change(adapter(1, brand="bolt"))
    messages = known.watch(brand="acme")
    assert await read(messages, 1) == [SnapshotEnd(0, "i1.1")]
    known.change(adapter(2, brand="bolt"))
    known.change(adapter(1))
    assert await read(messages, 1) == [Changed(adapter(1), "i1.3")]
    known.change(adapter(3, brand="bolt"))
    assert await read(messages, 1) == [Heartbeat(None, "i1.4")], "and goes on from here"


@asynccontextmanager
async def following(core: Core) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(core.feed.write()), asyncio.create_task(core.feed.follow(core.catalog.refresh))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_hundred_reconnecting_watchers_of_two_replicas_miss_nothing() -> None:
    store, random = InMemoryObjectStore(), Random(3)
    writer = await a_core_with_brand(store)
    reader = a_core(store, seed=1, max_age_s=1000)
    for note in ("1", "2"):
        await publish(writer, lora_file(note))
    last = 0
    async with AsyncExitStack() as stack:
        channels = []
        for core in (writer, reader):
            core.watches._heartbeat_s = 0.05  # so that the last to come back do not wait for long
            await stack.enter_async_context(following(core))
            server = await stack.enter_async_context(grpc_server(SETTINGS, apis(core)))
            channels.append(await stack.enter_async_context(grpc.aio.insecure_channel(server.address)))
        done = asyncio.Event()
        reconnects = 0

        async def watcher(number: int) -> int:
            """Follows one replica after the other, cutting its connection now and then; the last seq that it saw."""
            nonlocal reconnects
            cursor, seen = "", 0
            while seen < last or not done.is_set():
                registry = RegistryClient(channels[(number + reconnects) % 2])
                patience = random.randint(1, 4)
                async with aclosing(registry.watch("acme", cursor=cursor)) as messages:
                    async for message in messages:
                        cursor = message.cursor or cursor
                        if isinstance(message, InSnapshot | Changed):
                            assert message.adapter.seq >= seen, "never back in time"
                            seen = message.adapter.seq
                        patience -= 1
                        if patience <= 0 or (done.is_set() and seen >= last):
                            reconnects += 1
                            break
            return seen

        watching = [asyncio.create_task(watcher(number)) for number in range(20)]
        for flip in range(2000):
            move = await writer.catalog.promote(AdapterRef("acme", "style", flip % 2 + 1))
            last = move.seq
            await asyncio.sleep(0.005)
            if reconnects >= 200:
                break
        done.set()
        async with asyncio.timeout(30):
            assert set(await asyncio.gather(*watching)) == {last}
    assert reconnects >= 200


async def test_a_replica_hears_of_what_another_commits_without_being_asked() -> None:
    store = InMemoryObjectStore()
    writer, reader = await a_core_with_brand(store), a_core(store, seed=1, max_age_s=1000)
    await publish(writer, lora_file("1"))
    async with following(writer), following(reader):
        messages = reader.watches.messages("", lambda _: True)
        snapshot = await read(messages, 2)
        assert isinstance(snapshot[0], InSnapshot)
        await publish(writer, lora_file("2"))
        (news,) = await read(messages, 1)
        assert isinstance(news, Changed)
        assert (news.adapter.seq, news.adapter.latest_version) == (2, 2)


async def test_a_feed_reads_late_entries_forgets_old_ones_and_outlives_the_store() -> None:
    store, clock = InMemoryObjectStore(), Clock()
    clock.seconds = 10_000.0
    told: list[tuple[str, str, int]] = []

    async def refresh(*tidings: object) -> None:
        told.append(tidings)  # type: ignore[arg-type]  # as Refresh says
        await asyncio.sleep(0)

    feed = Feed(store=store, around=surroundings(clock), every_s=1.0)

    def entry(age_s: float, seq: int) -> None:
        clock.seconds -= age_s
        store.objects[layout.feed_entry(clock.wall(), f"id{seq}", "acme", "style", seq)] = b""
        clock.seconds += age_s

    following = asyncio.create_task(feed.follow(refresh))

    async def looked(times: int) -> None:
        until = clock.seconds + times
        async with asyncio.timeout(5):
            while clock.seconds < until:  # noqa: ASYNC110  # the clock is a test's own
                await asyncio.sleep(0)

    try:
        entry(0, 1)
        await looked(2)
        assert told == [("acme", "style", 1)]
        entry(30, 2)  # of a replica whose clock is behind
        await looked(8)
        assert told[1:] == [("acme", "style", 2)], "once"
        store.reachable = False
        await looked(3)
        assert feed.failing
        assert feed.stale_since == feed.reached
        entry(0, 3)
        store.reachable = True
        await looked(8)
        assert [feed.failing, feed.stale_since] == [False, None]
        assert told[2:] == [("acme", "style", 3)]
        await looked(800)
        assert not [key for key in store.objects if key.startswith(layout.FEED)]
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_brands_that_are_put_wake_nobody() -> None:
    core = await a_core_with_brand()
    await core.brands.put(Brand("bolt"))
    assert await read(core.watches.messages("", lambda _: True), 1) == [
        SnapshotEnd(0, core.watches._cursor(0)),
    ]
