"""Tells watchers what there is and every change after that, from this replica's memory; a slow one gets the newest.

Hears of changes from the shelf, whoever made them. Where those of other replicas come from is the feed's to know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from looksmith.nouns import Adapter
from services.registry.errors import RegistryStopping

#: Digests that one message names, so that it stays well below gRPC's 4 MiB.
DIGESTS_AT_ONCE = 1000
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
class BrandErased:
    """Files that nobody may keep any more: what they belonged to was erased."""

    brand: str
    digests: tuple[str, ...]
    cursor: str


@dataclass(frozen=True)
class Heartbeat:
    """Nothing has changed. ``stale_since``: when the store was last reached, now that it isn't."""

    stale_since: datetime | None
    cursor: str


Message = InSnapshot | SnapshotEnd | Changed | BrandErased | Heartbeat


@dataclass
class _Told:
    """What a watcher knows already: records of its snapshot, for what became known only by taking it is no news."""

    seqs: dict[Name, int] = field(default_factory=dict)
    gone: dict[Name, tuple[str, ...]] = field(default_factory=dict)


class Watches:
    """All watches of one replica. Cursors name its incarnation: those of another begin with a snapshot."""

    def __init__(
        self,
        *,
        everything: Callable[[], Awaitable[Sequence[Adapter]]],
        erased: Callable[[], Sequence[tuple[str, Sequence[str]]]] = tuple,
        stale_since: Callable[[], datetime | None],
        incarnation: str,
        heartbeat_s: float,
        kept: int = KEPT,
    ) -> None:
        """Takes what it needs to know.

        Args:
            everything: every adapter there is.
            erased: brands that lost files, and the digests of those.
            stale_since: when the store was last reached; None while it is.
            incarnation: another one at each start of a replica.
            heartbeat_s: seconds of silence after which a watcher is told that there is nothing to tell.
            kept: changes that are remembered.
        """
        self._everything, self._erased, self._stale_since = everything, erased, stale_since
        self._incarnation, self._heartbeat_s = incarnation, heartbeat_s
        self._newest: dict[Name, Adapter] = {}
        self._gone: dict[Name, tuple[str, ...]] = {}
        self._changes: deque[Name] = deque(maxlen=kept)
        self._number = 0  # of the newest change, counted from 1
        self._bell = asyncio.Event()
        self._stopped = False

    def stop(self) -> None:
        """Ends every watch, so that none uses up the grace of a server that stops."""
        self._stopped = True
        self._bell.set()

    def changed(self, adapter: Adapter, gone: Sequence[str] = ()) -> None:
        """An adapter stands as given. May be told of what is known, or out of order.

        Args:
            adapter: as it is now.
            gone: digests of files that it had, and that nobody may keep.
        """
        name = (adapter.brand, adapter.name)
        if name in self._newest and self._newest[name].seq >= adapter.seq:
            return
        self._newest[name], self._gone[name] = adapter, tuple(gone)
        self._changes.append(name)
        self._number += 1
        self._bell.set()
        self._bell = asyncio.Event()

    async def messages(self, cursor: str, shown: Callable[[str], bool]) -> AsyncGenerator[Message, None]:
        """What a watcher gets that has seen all up to ``cursor``, until the registry stops.

        Args:
            cursor: of the last message that it has; empty, or of no change that is remembered here: a snapshot first.
            shown: whether it gets to see a brand.

        Raises:
            RegistryStopping: in the end.
        """
        position = self._position(cursor)
        told = _Told()
        while True:
            if self._stopped:
                raise RegistryStopping
            bell = self._bell
            names = None if position is None else self._since(position)
            if position is None or names is None:
                position = self._number  # first: what changes from here on is told after the snapshot
                for message in await self._snapshot(shown, self._cursor(position), told):
                    yield message
            elif names:
                position = self._number
                for message in self._news([name for name in names if shown(name[0])], self._cursor(position), told):
                    yield message
            else:
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await bell.wait()
                except TimeoutError:
                    yield Heartbeat(self._stale_since(), self._cursor(position))

    async def _snapshot(self, shown: Callable[[str], bool], cursor: str, told: _Told) -> list[Message]:
        adapters = [adapter for adapter in await self._everything() if shown(adapter.brand)]
        told.seqs = {(adapter.brand, adapter.name): adapter.seq for adapter in adapters}
        erasures = [_erasures(brand, digests) for brand, digests in self._erased() if shown(brand)]
        return [
            *(InSnapshot(adapter, "") for adapter in adapters),
            *chain.from_iterable(erasures),
            SnapshotEnd(len(adapters), cursor),
        ]

    def _news(self, names: Sequence[Name], cursor: str, told: _Told) -> list[Message]:
        """What has become of adapters; only the last message makes all of them known."""
        changed = [self._newest[name] for name in dict.fromkeys(names)]
        news = [adapter for adapter in changed if adapter.seq > told.seqs.get((adapter.brand, adapter.name), 0)]
        messages: list[Message] = []
        for adapter in news:
            name = (adapter.brand, adapter.name)
            if self._gone[name] != told.gone.get(name, ()):
                told.gone[name] = self._gone[name]
                messages += _erasures(adapter.brand, self._gone[name])
            messages.append(Changed(adapter, cursor if adapter is news[-1] else ""))
        return messages

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


def _erasures(brand: str, digests: Sequence[str]) -> list[BrandErased]:
    """One message or several; their cursor is that of what comes after them."""
    return [
        BrandErased(brand, tuple(digests[at : at + DIGESTS_AT_ONCE]), "")
        for at in range(0, len(digests), DIGESTS_AT_ONCE)
    ]
