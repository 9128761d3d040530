"""Tells watchers what there is and every change after that, from this replica's memory; a slow one gets the newest.

Hears of changes from the shelf, whoever made them. Where those of other replicas come from is the feed's to know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from looksmith.nouns import Adapter

#: Changes that a watcher may be behind, or come back after, before it gets a snapshot instead.
KEPT = 10_000

Name = tuple[str, str]  # brand and adapter


@dataclass(frozen=True)
class InSnapshot:
    """An adapter as it stood when the watch began."""

    adapter: Adapter
    cursor: str


@dataclass(frozen=True)
class SnapshotEnd:
    """That were all; what follows is news."""

    adapters: int
    cursor: str


@dataclass(frozen=True)
class Changed:
    """An adapter after a change."""

    adapter: Adapter
    cursor: str


@dataclass(frozen=True)
class Heartbeat:
    """Nothing has changed. ``stale_since``: when the store was last reached, now that it isn't."""

    stale_since: datetime | None
    cursor: str


Message = InSnapshot | SnapshotEnd | Changed | Heartbeat


class Watches:
    """All watches of one replica. Cursors name its incarnation: those of another begin with a snapshot."""

    def __init__(
        self,
        *,
        everything: Callable[[], Awaitable[Sequence[Adapter]]],
        stale_since: Callable[[], datetime | None],
        incarnation: str,
        heartbeat_s: float,
        kept: int = KEPT,
    ) -> None:
        """Takes what it needs to know.

        Args:
            everything: every adapter there is.
            stale_since: when the store was last reached; None while it is.
            incarnation: another one at each start of a replica.
            heartbeat_s: seconds of silence after which a watcher is told that there is nothing to tell.
            kept: changes that are remembered.
        """
        self._everything, self._stale_since = everything, stale_since
        self._incarnation, self._heartbeat_s = incarnation, heartbeat_s
        self._newest: dict[Name, Adapter] = {}
        self._changes: deque[Name] = deque(maxlen=kept)
        self._number = 0  # of the newest change, counted from 1
        self._bell = asyncio.Event()

    def changed(self, adapter: Adapter) -> None:
        """An adapter stands as given. May be told of what is known, or out of order."""
        name = (adapter.brand, adapter.name)
        if name in self._newest and self._newest[name].seq >= adapter.seq:
            return
        self._newest[name] = adapter
        self._changes.append(name)
        self._number += 1
        self._bell.set()
        self._bell = asyncio.Event()

    async def messages(self, cursor: str, shown: Callable[[str], bool]) -> AsyncGenerator[Message, None]:
        """What a watcher gets that has seen all up to ``cursor``, without end.

        Args:
            cursor: of the last message that it has; empty, or of no change that is remembered here: a snapshot first.
            shown: whether it gets to see a brand.
        """
        position = self._position(cursor)
        told: dict[Name, int] = {}  # of the snapshot: what became known only by taking it is no news
        while True:
            bell = self._bell
            names = None if position is None else self._since(position)
            if position is None or names is None:
                position = self._number  # first: what changes from here on is told after the snapshot
                adapters = [adapter for adapter in await self._everything() if shown(adapter.brand)]
                told = {(adapter.brand, adapter.name): adapter.seq for adapter in adapters}
                for adapter in adapters:
                    yield InSnapshot(adapter, "")
                yield SnapshotEnd(len(adapters), self._cursor(position))
                continue
            if names:
                position = self._number
                changed = [self._newest[name] for name in dict.fromkeys(names) if shown(name[0])]
                news = [adapter for adapter in changed if adapter.seq > told.get((adapter.brand, adapter.name), 0)]
                for adapter in news:
                    # Only the last of them makes the others known too.
                    yield Changed(adapter, self._cursor(position) if adapter is news[-1] else "")
                continue
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await bell.wait()
            except TimeoutError:
                yield Heartbeat(self._stale_since(), self._cursor(position))

    def _since(self, position: int) -> list[Name] | None:
        """Names of what has changed after a position; None: that is too long ago."""
        behind = self._number - position
        if behind > len(self._changes):
            return None
        return list(self._changes)[len(self._changes) - behind :] if behind else []

    def _cursor(self, position: int) -> str:
        return f"{self._incarnation}.{position}"

    def _position(self, cursor: str) -> int | None:
        incarnation, _, number = cursor.rpartition(".")
        if incarnation != self._incarnation or not number.isdecimal() or len(number) > 18:
            return None
        return int(number) if int(number) <= self._number else None
