"""A log of numbered records in an object store: the one way in which the registry changes anything.

A record is created only if its number is free, so of several writers exactly one gets it, and the others decide again
on what it wrote. Knows nothing about what records mean; `apply` and `decide` do.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.registry import layout
from services.registry.errors import LogContended, OutcomeUnknown, RecordCorrupt, StoreUnavailable
from services.registry.object_store import Creation, ObjectStore

#: Records of others that one commit gives way to before it gives up.
MAX_LOSSES = 16
#: Tries to write one record, or to learn what became of it.
MAX_CLAIMS = 5
#: Keys that one look for the newest record lists; a registry that starts takes such a look at every log.
LISTED = 1000
#: Seconds of the first pause, which doubles up to the longest; each is cut to a random part.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5

E = TypeVar("E")
S = TypeVar("S")


@dataclass(frozen=True)
class Record(Generic[E, S]):
    """One event and the whole state that it left behind."""

    seq: int
    prev_digest: str  # sha256 of the record before, as stored; empty in the first
    txn_id: str  # by which a writer knows its own record again
    writer: str
    time: datetime  # never before the record before, whatever the writers' clocks say
    event: E
    state: S
    format: Literal[1] = 1
    stands_for: str = ""
    """sha256 of the record that this one replaced when what it told of was erased; empty: it is as it was written."""


@dataclass(frozen=True)
class Entry(Generic[E, S]):
    """A record and the sha256 of its bytes, or of those that it stands for."""

    record: Record[E, S]
    digest: str


@dataclass(frozen=True)
class Schema(Generic[E, S]):
    """What a kind of log holds: how records are written, what an event makes of a state, and what outlasts erasure."""

    records: TypeAdapter[Record[E, S]]
    apply: Callable[[S | None, E, int, datetime], S]
    without_text: Callable[[E, S], tuple[E, S]]


@dataclass(frozen=True)
class Surroundings:
    """What a log needs of the process around it."""

    writer: str
    """Name of this replica, for people who read the log."""

    wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    random: Random = field(default_factory=Random)


class CommitLog(Generic[E, S]):
    """One log, and its newest record as far as this process knows it.

    Attributes:
        head: the newest known record; None: none is known.
        checked_at: monotonic seconds of the last look at the store that showed head to be the newest.
        checked_time: the same by the wall clock.
    """

    def __init__(self, prefix: str, *, store: ObjectStore, schema: Schema[E, S], around: Surroundings) -> None:
        self._prefix, self._store, self._schema, self._around = prefix, store, schema, around
        self._entry: Entry[E, S] | None = None
        self._reading, self._writing = asyncio.Lock(), asyncio.Lock()
        self.checked_at = float("-inf")
        self.checked_time: datetime | None = None

    @property
    def head(self) -> Record[E, S] | None:
        return self._entry.record if self._entry else None

    @property
    def seq(self) -> int:
        return self._entry.record.seq if self._entry else 0

    async def refresh(self) -> None:
        """Reads what others have added since the last look.

        Raises:
            StoreUnavailable: the store cannot be reached; head stays what it was.
            RecordCorrupt: a record does not follow from the one before.
        """
        asked = self._around.clock()
        async with self._reading:
            if self.checked_at > asked:  # someone looked while this call waited for its turn
                return
            asked, asked_time = self._around.clock(), self._around.wall_clock()
            if self._entry is None:
                self._advance(await self._newest())
            else:
                while (entry := await self._read(self.seq + 1)) is not None:
                    self._advance(entry)
            self.checked_at, self.checked_time = asked, asked_time

    async def commit(self, decide: Callable[[Record[E, S] | None], E | None]) -> tuple[Record[E, S] | None, bool]:
        """Adds the event that ``decide`` makes of the newest record; asks again whenever another was faster.

        Args:
            decide: gets the newest record, or None in an empty log; returns None where nothing needs to change, and
                raises where the change is refused.

        Returns:
            The newest record, and whether this call wrote it.

        Raises:
            StoreUnavailable: nothing was written.
            OutcomeUnknown: the record may have been written.
            LogContended: others wrote MAX_LOSSES times.
            RecordCorrupt: the log cannot be followed.
        """
        async with self._writing:  # a lost race at the store costs more than waiting here
            await self.refresh()
            for losses in range(MAX_LOSSES):
                event = decide(self.head)
                if event is None:
                    return self.head, False
                mine = self._next(event)
                asked, asked_time = self._around.clock(), self._around.wall_clock()
                found = await self._claim(mine)
                self._advance(found)
                self.checked_at, self.checked_time = asked, asked_time
                if found.record.txn_id == mine.txn_id:
                    return found.record, True
                await self._pause(losses)
                await self.refresh()
            raise LogContended(MAX_LOSSES)

    async def record(self, seq: int) -> Record[E, S]:
        """Any record up to the head. Raises: StoreUnavailable, RecordCorrupt."""
        return self._entry.record if self._entry and seq == self.seq else await self.stored(seq)

    async def stored(self, seq: int) -> Record[E, S]:
        """As ``record``, as the store has it now."""
        entry = await self._read(seq)
        if entry is None:
            raise RecordCorrupt(layout.slot(self._prefix, seq), "it is missing")
        return entry.record

    async def erase_text(self, through: int) -> None:
        """Overwrites all records up to one with what may outlast erasure; repeating it changes nothing.

        No number becomes free: whoever still means to write it finds it taken.

        Raises:
            StoreUnavailable: some may be overwritten, and others not.
            RecordCorrupt: one of them can't be read.
        """
        for seq in range(1, through + 1):
            key = layout.slot(self._prefix, seq)
            entry = await self._read(seq)
            if entry is None:
                raise RecordCorrupt(key, "it is missing")
            event, state = self._schema.without_text(entry.record.event, entry.record.state)
            bare = replace(entry.record, event=event, state=state, writer="", stands_for=entry.digest)
            if bare != entry.record:
                await self._store.put(key, self._schema.records.dump_json(bare))
            if seq == self.seq:
                self._entry = Entry(bare, entry.digest)

    def _next(self, event: E) -> Record[E, S]:
        now, seq = self._around.wall_clock(), self.seq + 1
        if self.head:
            now = max(now, self.head.time)
        state = self._schema.apply(self.head.state if self.head else None, event, seq, now)
        return Record(
            seq=seq,
            prev_digest=self._entry.digest if self._entry else "",
            txn_id=self._around.new_id(),
            writer=self._around.writer,
            time=now,
            event=event,
            state=state,
        )

    async def _claim(self, record: Record[E, S]) -> Entry[E, S]:
        """Writes a record if its number is free, and returns what stands there in the end, its own or another's."""
        data = self._schema.records.dump_json(record)
        key = layout.slot(self._prefix, record.seq)
        unknown = False
        for attempt in range(MAX_CLAIMS):
            try:
                if await self._store.create_if_absent(key, data) is Creation.CREATED:
                    return Entry(record, hashlib.sha256(data).hexdigest())
                # The answer was lost, or "exists" may mean one's own earlier try: the record itself tells.
                unknown = True
                if (found := await self._read(record.seq)) is not None:
                    return found
            except StoreUnavailable:
                if not unknown:
                    raise
            await self._pause(attempt)
        raise OutcomeUnknown

    async def _newest(self) -> Entry[E, S] | None:
        last, seen, more = 0, layout.slot(self._prefix, 0), True
        while more:
            found = await self._store.keys(self._prefix, start_after=seen, limit=LISTED)
            numbers = [layout.slot_number(key) or 0 for key in found]
            # A strange object in the log's place is none of its records.
            records = (n for n, key in zip(numbers, found, strict=True) if key == layout.slot(self._prefix, n))
            last = max(records, default=last)
            seen, more = found[-1] if found else seen, len(found) == LISTED
        return await self._read(last) if last else None

    async def _read(self, seq: int) -> Entry[E, S] | None:
        key = layout.slot(self._prefix, seq)
        data = await self._store.get(key)
        if data is None:
            return None
        try:
            record = self._schema.records.validate_json(data)
            return Entry(record, record.stands_for or hashlib.sha256(data).hexdigest())
        except ValidationError as error:
            raise RecordCorrupt(key, f"{error.error_count()} fields are missing or bad") from error

    def _advance(self, entry: Entry[E, S] | None) -> None:
        if entry is None or entry.record.seq <= self.seq:
            return
        if self._entry and entry.record.seq == self.seq + 1 and entry.record.prev_digest != self._entry.digest:
            raise RecordCorrupt(layout.slot(self._prefix, entry.record.seq), "it does not follow the one before")
        self._entry = entry

    async def _pause(self, attempt: int) -> None:
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
        await self._around.sleep(longest * self._around.random.random())
