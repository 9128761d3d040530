"""Finds out whether an object store keeps what the registry relies on, by trying it under a prefix of its own.

Knows keys and bytes; what is done about a store that does not is the gate's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from services.registry import layout
from services.registry.errors import StoreRefused, StoreUnavailable
from services.registry.object_store import Creation, ObjectStore

log = structlog.get_logger()

#: Writers of one race, and races. A store that looks before it leaps, without a lock, fails most of them.
WRITERS, RACES = 8, 5
#: Seconds that a race waits for the losers once it has a winner, or as long as that took. SeaweedFS keeps a loser
#: waiting for its lock for whole seconds: up to 4 of them for one of 8 writers (4.48, one node, loopback).
GRACE_S = 0.2
#: Tries of a creation that stays undecided, and seconds between them.
TRIES, PAUSE_S = 5, 0.05
#: Keys that are listed.
LISTED = 6
#: Seconds for tidying up, which waits for the losers that no race waited for; the store may have hung.
TIDY_S = 10.0
#: Age from which what a probe left behind is nobody's: it takes a second, and clocks of replicas differ by less.
LEFTOVER_AGE = timedelta(hours=1)


class Rule(StrEnum):
    """What the registry relies on: history hangs on the first two, what is read of it on the others."""

    CREATE_IF_ABSENT = "create-if-absent"
    ONE_WINNER = "one winner of a race"
    READ_AFTER_WRITE = "read after write"
    RANGES = "ranges"
    LISTING = "listing"
    DELETION = "deletion"


@dataclass(frozen=True)
class Breach:
    """A rule that does not hold, and what the store did."""

    rule: Rule
    what: str


@dataclass(frozen=True)
class Findings:
    """What a probe found out. A rule in neither list could not be tried after another was seen broken."""

    held: tuple[Rule, ...]
    broken: tuple[Breach, ...]

    @property
    def conforming(self) -> bool:
        return not self.broken

    def as_text(self) -> dict[str, str]:
        """What the store did, by the rule that this breaks."""
        return {breach.rule.value: breach.what for breach in self.broken}


@asynccontextmanager
async def probe(
    store: ObjectStore,
    *,
    new_id: Callable[[], str],
    wall_clock: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[Findings]:
    """Tries every rule once, a race several times, and says what it found; leaving the context takes all keys away.

    Args:
        store: taken at its word alone where it says that it does not know (UNKNOWN), or cannot be reached.
        new_id: names this probe among others.
        wall_clock: tells how old the leftovers of others are, which are deleted too.
        sleep: pauses between tries of what stays undecided.

    Raises:
        StoreUnavailable: a rule could not be tried in TRIES tries, since the store was not reached or did not decide.
        StoreRefused: it said no. Neither is a broken rule: the probe is to be repeated.
    """
    trial = _Trial(store, layout.probe(wall_clock(), new_id()), sleep)
    checks = {
        Rule.CREATE_IF_ABSENT: trial.create_if_absent,
        Rule.ONE_WINNER: trial.one_winner,
        Rule.READ_AFTER_WRITE: trial.read_after_write,
        Rule.RANGES: trial.ranges,
        Rule.LISTING: trial.listing,
        Rule.DELETION: trial.deletion,
    }
    try:
        await _delete_leftovers(store, wall_clock())
        yield await _findings(trial, checks)
    finally:
        await trial.tidy()


async def _findings(trial: _Trial, checks: Mapping[Rule, Callable[[], Awaitable[str]]]) -> Findings:
    held: list[Rule] = []
    broken: list[Breach] = []
    try:
        for rule, check in checks.items():
            what = await trial.patiently(check)
            if what:
                broken.append(Breach(rule, what))
            else:
                held.append(rule)
    except (StoreUnavailable, StoreRefused):
        if not broken:
            raise
    return Findings(tuple(held), tuple(broken))


class _Trial:
    """One probe's keys. Each check answers what the store did wrong, or nothing."""

    def __init__(self, store: ObjectStore, prefix: str, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._store, self._prefix, self._sleep = store, prefix, sleep
        self._written: set[str] = set()
        self._racers: dict[asyncio.Task[Creation], str] = {}  # by the key they race for
        self._attempts = 0

    async def patiently(self, check: Callable[[], Awaitable[str]]) -> str:
        """What a check finds, begun again with keys of its own where the store is lost on the way."""
        for tries_left in reversed(range(TRIES)):
            self._attempts += 1
            try:
                return await check()
            except StoreUnavailable:
                if not tries_left:
                    raise
            await self._sleep(PAUSE_S)
        raise AssertionError("the last try returns or raises")

    async def create_if_absent(self) -> str:
        key = self._key("create")
        if await self._created(key, b"first") is Creation.EXISTS:
            return "a key that nobody had written was said to be taken"
        again = await self._created(key, b"second")
        found = await self._store.get(key)
        if found == b"second":
            return "a second creation of the same key replaced the first"
        if again is Creation.CREATED:
            return "a second creation of the same key was said to have succeeded"
        return ""

    async def one_winner(self) -> str:
        decided = 0
        for race in range(RACES + TRIES):
            key = self._key(f"race-{race}")
            bodies = [f"writer {writer}".encode() for writer in range(WRITERS)]
            outcomes = await self._race(key, bodies)
            found = await self._store.get(key)
            what = race_fault(outcomes, found)
            if what:
                return what
            decided += found is not None  # else all answers were lost, and perhaps all creations
            if decided == RACES:
                return ""
            if found is None:
                await self._sleep(PAUSE_S)
        raise StoreUnavailable(f"it left {TRIES + 1} races undecided")

    async def read_after_write(self) -> str:
        key = self._key("read")
        if await self._store.get(key) is not None or await self._store.size(key) is not None:
            return "a key that nobody had written was there"
        await self._created(key, b"fresh")
        found, size = await self._store.get(key), await self._store.size(key)
        if found != b"fresh":
            return f"an object of 5 bytes read as {_shown(found)} right after it was written"
        if size != len(b"fresh"):
            return f"an object of 5 bytes had the size {size} right after it was written"
        return ""

    async def ranges(self) -> str:
        key, data = self._key("range"), bytes(range(256))
        await self._created(key, data)
        for offset, limit in ((0, 0), (0, 3), (200, 0), (100, 7), (250, 100)):
            try:
                found = b"".join([piece async for piece in self._store.stream(key, offset=offset, limit=limit)])
            except StoreRefused as error:
                return f"{limit or 'all'} bytes from {offset} of 256 were refused: {error.message}"
            wanted = data[offset : offset + limit if limit else None]
            if found != wanted:
                return f"{limit or 'all'} bytes from {offset} of 256 were asked for; {len(found)} came, or other ones"
        return ""

    async def listing(self) -> str:
        log_prefix = self._key("log-")
        written: list[str] = []
        for seq in (2, 1, *range(3, LISTED + 1)):
            key = layout.slot(log_prefix, seq)
            await self._created(key, b"-")
            written.append(key)
            found = await self._store.keys(log_prefix)
            if found != sorted(written):
                return (
                    f"{len(found)} keys were listed, or in another order, right after {len(written)} had been written"
                )
        written.sort()
        for start_after, limit in (
            (layout.slot(log_prefix, 0), 1000),
            (written[1], 1000),
            (written[1], 2),
            (written[-1], 1),
        ):
            wanted = [key for key in written if key > start_after][:limit]
            if await self._store.keys(log_prefix, start_after=start_after, limit=limit) != wanted:
                return f"keys after a given one, at most {limit} of them, were others than asked for"
        return ""

    async def deletion(self) -> str:
        key = self._key("deleted-key")
        await self._created(key, b"-")
        await self._store.delete(key)
        if await self._store.get(key) is not None or await self._store.size(key) is not None:
            return "a deleted object was still there"
        if await self._store.keys(self._key("deleted-")):
            return "a deleted object was still listed"
        return ""

    async def tidy(self) -> None:
        """Removes all keys, as far as that can be done in TIDY_S; a later probe finds the rest."""
        raced = {key for racer, key in self._racers.items() if not racer.done()}
        try:
            async with asyncio.timeout(TIDY_S):
                await self._delete(self._written - raced)
                await asyncio.gather(*self._racers, return_exceptions=True)  # who comes later would create them anew
                await self._delete(raced)
                left = await self._left()
        except (TimeoutError, StoreUnavailable, StoreRefused):
            left = True
        finally:
            for racer in self._racers:
                racer.cancel()
        if left:
            log.warning("store.probe_left_keys", prefix=self._prefix)

    async def _left(self) -> bool:
        """Whether anything is left, once what the store was still about when it was told to delete is deleted too."""
        for _ in range(TRIES):
            if not (keys := await self._store.keys(self._prefix)):
                return False
            await self._delete({*keys})
            await self._sleep(PAUSE_S)
        return bool(await self._store.keys(self._prefix))

    async def _delete(self, keys: set[str]) -> None:
        await asyncio.gather(*map(self._store.delete, keys), return_exceptions=True)

    def _key(self, name: str) -> str:
        return f"{self._prefix}{self._attempts}-{name}"

    async def _race(self, key: str, bodies: list[bytes]) -> dict[bytes, Creation]:
        """What each writer was told; UNKNOWN where the store keeps a loser waiting."""
        racers = {body: asyncio.create_task(self._once(key, body)) for body in bodies}
        self._racers |= dict.fromkeys(racers.values(), key)
        clock = asyncio.get_running_loop().time
        began, racing, until = clock(), {*racers.values()}, float("inf")
        while racing and clock() < until:
            patience = None if until == float("inf") else until - clock()
            done, racing = await asyncio.wait(racing, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() is Creation.CREATED for task in done):
                until = min(until, clock() + max(GRACE_S, clock() - began))
        return {body: task.result() if task.done() else Creation.UNKNOWN for body, task in racers.items()}

    async def _once(self, key: str, data: bytes) -> Creation:
        self._written.add(key)
        return await self._store.create_if_absent(key, data)

    async def _created(self, key: str, data: bytes) -> Creation:
        """What became of a creation in the end: one that is undecided is repeated, and knows its own bytes again."""
        unknown = False
        for _ in range(TRIES):
            outcome = await self._once(key, data)
            if outcome is Creation.EXISTS and unknown:
                return Creation.CREATED if await self._store.get(key) == data else Creation.EXISTS
            if outcome is not Creation.UNKNOWN:
                return outcome
            unknown = True
            await self._sleep(PAUSE_S)
        raise StoreUnavailable(f"it left a creation undecided {TRIES} times")


def race_fault(outcomes: dict[bytes, Creation], found: bytes | None) -> str:
    """What is wrong with a race, given what each writer of other bytes was told and what was read afterwards.

    A writer that was told UNKNOWN, or nothing yet, may have won or lost; only what is certain is held against a store.
    """
    winners = [body for body, outcome in outcomes.items() if outcome is Creation.CREATED]
    if len(winners) > 1:
        return f"{len(winners)} of {len(outcomes)} racing writers were told that they had created the same key"
    if winners and found != winners[0]:
        return f"the winner of a race was told so, and what it wrote read as {_shown(found)} afterwards"
    if winners:
        return ""
    if found is None:
        return (
            ""
            if Creation.EXISTS not in outcomes.values()
            else "racing writers were told that the key was taken, and nothing was there"
        )
    if outcomes.get(found) is not Creation.UNKNOWN:
        return "a racing writer that was told it had lost replaced what was there"
    return ""


def _shown(data: bytes | None) -> str:
    return "missing" if data is None else f"{len(data)} other bytes"


async def _delete_leftovers(store: ObjectStore, now: datetime) -> None:
    began = {key: layout.probe_time(key) for key in await store.keys(layout.PROBES)}
    old = [key for key, time in began.items() if time and now - time > LEFTOVER_AGE]
    await asyncio.gather(*map(store.delete, old))
    if old:
        log.info("store.probe_leftovers_deleted", keys=len(old))
