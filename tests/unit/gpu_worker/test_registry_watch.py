"""The watch on the registry: resumed from its cursor, tried again ever more slowly, never given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from looksmith.errors import Unavailable
from looksmith.nouns import AdapterRef, Brand
from services.gpu_worker.registry_watch import LAST_RETRY_S, RegistryWatch
from services.registry.client import Changed, FakeRegistryClient, Heartbeat, InSnapshot, Message, SnapshotEnd
from tests.unit.gpu_worker.worker_parts import eventually
from tests.unit.registry.parts import header_for


class Registry:
    """Says what a test puts into ``says``: messages; an error, which ends the watch; None, which ends it too."""

    def __init__(self, *says: Message | Exception | None) -> None:
        self.says: asyncio.Queue[Message | Exception | None] = asyncio.Queue()
        for each in says:
            self.says.put_nowait(each)
        self.cursors: list[str] = []
        self.open = 0

    async def watch(self, cursor: str) -> AsyncGenerator[Message, None]:
        self.cursors.append(cursor)
        self.open += 1
        try:
            while (message := await self.says.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self.open -= 1


class Listener:
    """A running watch: what it heard, and how long it waited between tries."""

    def __init__(self, registry: Registry, **options: Any) -> None:  # noqa: ANN401  # of RegistryWatch
        self.heard: list[Message] = []
        self.waits: list[float] = []
        self.watch = RegistryWatch(
            watch=registry.watch, hear=self._hear, jitter=lambda: 1.0, sleep=self._sleep, **options
        )

    async def _hear(self, message: Message) -> None:
        self.heard.append(message)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None], None]:
        task = asyncio.create_task(self.watch.run())
        yield task
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_lost_watch_goes_on_from_the_last_cursor_that_was_told() -> None:
    registry = Registry(
        SnapshotEnd(0, "i1.3"), Heartbeat(None, ""), None, Heartbeat(None, "i1.4"), Unavailable("gone"), None
    )
    listener = Listener(registry)
    async with listener.running():
        await eventually(lambda: len(registry.cursors) == 4)
    assert registry.cursors == ["", "i1.3", "i1.4", "i1.4"]
    assert len(listener.heard) == 3


async def test_waits_between_tries_double_up_to_the_last_and_begin_anew_once_it_is_heard_again() -> None:
    registry = Registry(*[Unavailable("down")] * 6, SnapshotEnd(0, "i1.0"), None)
    listener = Listener(registry)
    async with listener.running():
        await eventually(lambda: len(registry.cursors) == 8)
    assert listener.waits == [0.2, 0.4, 0.8, *[LAST_RETRY_S] * 3, 0.1]


async def test_a_registry_that_falls_silent_is_asked_anew() -> None:
    registry = Registry(SnapshotEnd(0, "i1.7"))
    async with Listener(registry, silence_s=0.05).running():
        await eventually(lambda: len(registry.cursors) == 3)
        assert registry.open == 1, "the silent ones are closed"
    assert registry.cursors == ["", "i1.7", "i1.7"]


async def test_a_message_that_cannot_be_acted_on_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(SnapshotEnd(0, "i1.1"), Heartbeat(None, "i1.2"), Heartbeat(None, "i1.2"))
    listener = Listener(registry)
    heard = listener._hear

    async def fails_once(message: Message) -> None:
        if isinstance(message, Heartbeat) and len(registry.cursors) == 1:
            raise ZeroDivisionError
        await heard(message)

    monkeypatch.setattr(listener.watch, "_hear", fails_once)
    async with listener.running() as task:
        await eventually(lambda: len(listener.heard) == 2)
        assert not task.done()
    assert registry.cursors == ["", "i1.1"]


async def test_a_worker_starts_once_it_knows_what_there_is_or_has_waited_long_enough() -> None:
    registry = Registry()
    async with asyncio.timeout(2), Listener(registry).watch.running(patience_s=0.05):
        assert registry.open == 1
    registry = Registry(Heartbeat(None, "i1.1"))
    listener, entered = Listener(registry), asyncio.Event()

    async def start() -> None:
        async with listener.watch.running(patience_s=60):
            entered.set()

    starting = asyncio.create_task(start())
    await eventually(lambda: listener.heard)
    assert not entered.is_set()
    registry.says.put_nowait(SnapshotEnd(0, "i1.1"))
    await eventually(entered.is_set)
    await starting
    assert registry.open == 0


async def test_hears_what_a_registry_has_and_what_changes_in_it() -> None:
    registry, heard = FakeRegistryClient(), list[Message]()

    async def hear(message: Message) -> None:
        heard.append(message)

    await registry.put_brand(Brand("acme"))
    for data in (b"1", b"2"):
        await registry.publish(header_for(data), [data])
    watch = RegistryWatch(watch=lambda cursor: registry.watch(cursor=cursor), hear=hear, jitter=lambda: 1.0)
    async with watch.running():
        await registry.promote(AdapterRef("acme", "style", 2))
        await eventually(lambda: len(heard) == 3)
    assert [type(message) for message in heard] == [InSnapshot, SnapshotEnd, Changed]
