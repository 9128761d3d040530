"""This replica's memory of logs: which there are, their newest records, and how fresh they are.

Decides when a read goes to the store and when memory answers; knows nothing about what records mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import structlog

from looksmith.errors import LooksmithError
from services.registry.commit_log import CommitLog, Record, Schema, Surroundings
from services.registry.errors import StoreUnavailable
from services.registry.object_store import ObjectStore

log = structlog.get_logger()

#: Seconds for which memory answers without asking a store again that has just failed.
OUTAGE_S = 1.0
#: Seconds that a read waits for the store when memory could answer.
PATIENCE_S = 1.0

E = TypeVar("E")
S = TypeVar("S")

#: Names of a log, its newest record, and whether this replica wrote that.
News = Callable[[tuple[str, ...], Record[E, S], bool], None]


@dataclass(frozen=True)
class Head(Generic[E, S]):
    """The newest record, None in an empty log; ``stale_since``: when the store last confirmed it, now that it can't."""

    record: Record[E, S] | None
    stale_since: datetime | None = None


class Shelf(Generic[E, S]):
    """Logs of one kind, by the names in their prefix."""

    def __init__(
        self,
        prefix: Callable[..., str],
        *,
        store: ObjectStore,
        schema: Schema[E, S],
        around: Surroundings,
        max_age_s: float,
    ) -> None:
        self._prefix, self._store, self._schema, self._around = prefix, store, schema, around
        self._max_age_s = max_age_s
        # Whoever asks for names that do not exist must not fill the memory: empty logs live while they are in use.
        self._in_use: WeakValueDictionary[tuple[str, ...], CommitLog[E, S]] = WeakValueDictionary()
        self._kept: dict[tuple[str, ...], CommitLog[E, S]] = {}
        self._ask_again_at = float("-inf")
        self._told: dict[tuple[str, ...], int] = {}
        self._listeners: list[News[E, S]] = []
        self._looking: dict[tuple[str, ...], asyncio.Task[None]] = {}

    def listen(self, listener: News[E, S]) -> None:
        """Has ``listener`` told of every newest record that this replica comes to know, and whether it wrote it."""
        self._listeners.append(listener)

    def log(self, *names: str) -> CommitLog[E, S]:
        """The log of these names; one object, and so one lock, for all who use it at a time."""
        found = self._in_use.get(names)
        if found is None:
            found = CommitLog(self._prefix(*names), store=self._store, schema=self._schema, around=self._around)
            self._in_use[names] = found
        return found

    async def head(self, *names: str, min_seq: int = 0) -> Head[E, S]:
        """The newest record, from memory where that is fresh enough or the store is out of reach.

        Raises:
            StoreUnavailable: and memory has nothing, or nothing as new as ``min_seq``.
        """
        known = self.log(*names)
        now = self._around.clock()
        remembered = known.head is not None and known.seq >= min_seq
        age = now - known.checked_at
        if remembered and age < self._max_age_s:
            if age > self._max_age_s / 2:  # so that nobody waits for the store while many ask
                self._look_ahead(names, known)
            return Head(known.head)
        if remembered and now < self._ask_again_at:
            return Head(known.head, known.checked_time)
        try:
            async with asyncio.timeout(PATIENCE_S if remembered else None):
                await known.refresh()
        except (StoreUnavailable, TimeoutError) as error:
            self._ask_again_at = now + OUTAGE_S
            if not remembered:
                raise
            log.warning("store.unavailable", error=str(error), answered_from="memory")
            return Head(known.head, known.checked_time)
        self._keep(names, known)
        return Head(known.head)

    def _look_ahead(self, names: tuple[str, ...], known: CommitLog[E, S]) -> None:
        """Asks the store beside whatever else is done; what goes wrong is for whoever has to wait for it."""
        if names in self._looking or self._around.clock() < self._ask_again_at:
            return

        async def look() -> None:
            with contextlib.suppress(LooksmithError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await known.refresh()
                self._keep(names, known)

        task = self._looking[names] = asyncio.create_task(look())
        task.add_done_callback(lambda _: self._looking.pop(names))

    async def newest(self, *names: str) -> Record[E, S] | None:
        """The newest record as the store has it now, whatever memory says.

        Raises:
            StoreUnavailable, RecordCorrupt: as CommitLog.refresh.
        """
        known = self.log(*names)
        await known.refresh()
        self._keep(names, known)
        return known.head

    async def commit(
        self, *names: str, decide: Callable[[Record[E, S] | None], E | None]
    ) -> tuple[Record[E, S] | None, bool]:
        """CommitLog.commit on the log of these names."""
        known = self.log(*names)
        wrote = False
        try:
            record, wrote = await known.commit(decide)
            return record, wrote
        finally:
            self._keep(names, known, wrote=wrote)

    def remembered(self) -> dict[tuple[str, ...], Record[E, S]]:
        """The newest known record of every log that has one."""
        return {names: known.head for names, known in self._kept.items() if known.head}

    def _keep(self, names: tuple[str, ...], known: CommitLog[E, S], *, wrote: bool = False) -> None:
        if known.head is None:
            return
        self._kept[names] = known
        if known.seq > self._told.get(names, 0):
            self._told[names] = known.seq
            for listener in self._listeners:
                listener(names, known.head, wrote)
