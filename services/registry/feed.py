"""Wakes replicas: each says in the store what it has committed, and looks there for what others have.

An entry may be lost or come twice: it only says which log to look at. What is in the log is what counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from looksmith.errors import LooksmithError
from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.object_store import ObjectStore

log = structlog.get_logger()

#: How far back entries are looked for, since replicas' clocks differ and writes take a while; and how often.
OVERLAP, OVERLAP_EVERY_S = timedelta(seconds=60), 5.0
#: From when on an entry is nobody's: every replica has read all logs again by then.
OLD = timedelta(minutes=10)
#: Entries that wait to be written; beyond that they are lost, which costs others a minute.
MOST_WAITING = 1000
_PAGE = 1000

#: Reads a log, by brand and adapter, unless the record of a number is known already.
Refresh = Callable[[str, str, int], Awaitable[None]]


class Feed:
    """This replica's end. ``reached``: when the store last answered; ``failing``: whether it does not now."""

    def __init__(self, *, store: ObjectStore, around: Surroundings, every_s: float) -> None:
        """``every_s``: seconds between looks."""
        self._store, self._around, self._every_s = store, around, every_s
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        self._newest = ""
        self._seen: dict[str, None] = {}
        self._overlap_at = float("-inf")
        self._old_at = float("-inf")
        self.reached: datetime | None = None
        self.failing = False

    @property
    def stale_since(self) -> datetime | None:
        return self.reached if self.failing else None

    def announce(self, brand: str, adapter: str, seq: int) -> None:
        """Says that a record was committed, a moment later and if it can."""
        key = layout.feed_entry(self._around.wall_clock(), self._around.new_id(), brand, adapter, seq)
        self._seen[key] = None  # known here already
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(key)

    async def write(self) -> None:
        """Writes what is announced, without end."""
        while True:
            key = await self._waiting.get()
            try:
                await self._store.create_if_absent(key, b"")
            except LooksmithError as error:
                log.info("feed.entry_lost", key=key, error=error.message)

    async def follow(self, refresh: Refresh) -> None:
        """Has every log that others announce looked at, without end."""
        while True:
            try:
                for (brand, adapter), seq in (await self._news()).items():
                    await refresh(brand, adapter, seq)
                await self._forget()
                self.reached, self.failing = self._around.wall_clock(), False
            except LooksmithError as error:
                if not self.failing:
                    log.warning("feed.unreachable", error=error.message)
                self.failing = True
            await self._around.sleep(self._every_s)

    async def _news(self) -> dict[tuple[str, str], int]:
        """The newest record of each adapter, by entries that were not seen before."""
        now, clock = self._around.wall_clock(), self._around.clock()
        start = self._newest
        if clock >= self._overlap_at:
            self._overlap_at = clock + OVERLAP_EVERY_S
            start = layout.feed_after(now - OVERLAP)
        news: dict[tuple[str, str], int] = {}
        while keys := await self._store.keys(layout.FEED, start_after=start, limit=_PAGE):
            start = keys[-1]
            self._newest = max(self._newest, start)
            for key in keys:
                if key not in self._seen and (tidings := layout.feed_tidings(key)):
                    brand, adapter, seq = tidings
                    news[brand, adapter] = max(seq, news.get((brand, adapter), 0))
                self._seen[key] = None
            if len(keys) < _PAGE:
                break
        return news

    async def _forget(self) -> None:
        """Now and again: what is too old to be looked for, here and in the store."""
        if self._around.clock() < self._old_at:
            return
        self._old_at = self._around.clock() + OVERLAP.total_seconds()
        now = self._around.wall_clock()
        horizon = layout.feed_after(now - 2 * OVERLAP)
        self._seen = {key: None for key in self._seen if key > horizon}
        old = layout.feed_after(now - OLD)
        for key in await self._store.keys(layout.FEED, limit=_PAGE):
            if key > old:
                break
            await self._store.delete(key)
