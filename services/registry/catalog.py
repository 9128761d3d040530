"""Adapters as callers see them: what there is, what a reference means, and where aliases point.

Reads through the shelf and changes through the logs; the rules themselves are in adapter_state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime

import structlog

from looksmith.nouns import PRODUCTION, Adapter, AdapterRef, AdapterVersion, Resolved
from services.registry import layout, paging
from services.registry.adapter_state import (
    AdapterState,
    AliasSet,
    AllErased,
    StoredVersion,
    VersionPublished,
    VersionYanked,
    alias_move,
    alias_rollback,
    pick,
    pick_served,
    yank,
)
from services.registry.blobs import Blobs
from services.registry.errors import (
    AdapterNotFound,
    DigestNotFound,
    OffsetBeyondEnd,
    RecordCorrupt,
    SeqNotReached,
    StoreUnavailable,
)
from services.registry.messages import AdapterEvent, AliasMove, EventKind, Page, Yanked
from services.registry.object_store import ObjectStore
from services.registry.records import AdapterLog, AdapterRecord, AdapterShelf

log = structlog.get_logger()

#: Logs that are read at the same time for one list.
READS_AT_ONCE = 8


class Catalog:
    def __init__(
        self, *, adapters: AdapterShelf, blobs: Blobs, store: ObjectStore, who: Callable[[], str] = lambda: ""
    ) -> None:
        """``who``: names whoever is being answered, for the history."""
        self._adapters, self._blobs, self._store, self._who = adapters, blobs, store, who

    async def get(self, brand: str, adapter: str) -> Adapter:
        """Raises: AdapterNotFound, StoreUnavailable."""
        record, _ = await self._record(brand, adapter)
        return adapter_of(brand, adapter, record)

    async def resolve(self, ref: AdapterRef, min_seq: int = 0) -> Resolved:
        """What a reference means now, or meant when the store was last reached.

        Raises:
            NotFound: AdapterNotFound, AliasNotFound, VersionNotFound or DigestNotFound.
            AdapterYanked: the version was yanked, whether an alias, its number or its digest was asked for. Who
                resolved before goes on with the digest: ``open`` reads yanked files too.
            SeqNotReached: the log has no record ``min_seq``.
            StoreUnavailable: and this replica does not know, or not as of ``min_seq``.
        """
        record, stale_since = await self._record(ref.brand, ref.adapter, min_seq=min_seq)
        if record.seq < min_seq:
            raise SeqNotReached(ref, min_seq, record.seq)
        return Resolved(pick_served(record.state, ref).version, record.seq, stale_since)

    async def list_adapters(
        self, brand: str, page_size: int, page_token: str, *, shown: Callable[[str], bool] = lambda _brand: True
    ) -> Page[Adapter]:
        """Adapters by brand and name; of one brand, or where ``brand`` is empty of all that may be ``shown``.

        Raises:
            Malformed: the page token is of another list.
            StoreUnavailable: the store cannot be listed.
        """
        scope = ["adapters", brand]
        start = paging.after(scope, page_token)
        names = [name for name in await self._names(brand) if name > tuple(start.split("/")) and shown(name[0])]
        found = [
            (name, adapter_of(*name, record) if record and record.state.kept else None)
            for name, record in zip(names, await self._heads(names[:page_size]), strict=False)
        ]
        fitting = paging.fitting(found)
        more = paging.token(scope, "/".join(fitting[-1][0])) if len(names) > len(fitting) else ""
        return Page(tuple(adapter for _, adapter in fitting if adapter), more)

    async def list_versions(self, brand: str, adapter: str, page_size: int, page_token: str) -> Page[AdapterVersion]:
        """Versions, newest first.

        Raises:
            AdapterNotFound, Malformed, StoreUnavailable: as they say.
        """
        scope = ["versions", brand, adapter]
        record, _ = await self._record(brand, adapter)
        first = paging.number_after(scope, page_token, newest=len(record.state.versions))
        versions = [stored.version for stored in reversed(record.state.kept) if stored.version.version <= first]
        shown = paging.fitting(versions[:page_size])
        more = paging.token(scope, str(shown[-1].version)) if len(versions) > len(shown) else ""
        return Page(tuple(shown), more)

    async def open(self, brand: str, digest: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a file of the brand, of a yanked version too; the caller checks the digest.

        Raises:
            DigestNotFound: no adapter of the brand ever had it.
            OffsetBeyondEnd: ``offset`` is not in the file.
            StoreUnavailable: the file cannot be read, or the store cannot be asked who has it.
        """
        structlog.contextvars.bind_contextvars(brand=brand, digest=digest)
        file = await self._find(brand, lambda state: state.with_digest(digest))
        if file is None:
            raise DigestNotFound(brand, digest)
        size = file.version.size_bytes
        if offset >= size:
            raise OffsetBeyondEnd(offset, size)
        return self._blobs.read(file.keys, offset=offset, limit=min(limit, size - offset))  # stores count in 63 bits

    async def published_by(self, brand: str, request_id: str) -> StoredVersion | None:
        """The version that a request made. Raises: StoreUnavailable."""
        return await self._find(brand, lambda state: state.with_request(request_id))

    async def set_alias(
        self, alias: str, target: AdapterRef, *, expected_version: int | None = None, reason: str = ""
    ) -> AliasMove:
        """Makes an alias name what ``target`` means.

        Raises:
            NotFound: there is no such adapter or version.
            AdapterYanked: the version was yanked.
            AliasMoved: the alias does not name ``expected_version``; 0 expects that there is no alias.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        return await self._move(
            target.brand,
            target.adapter,
            alias,
            lambda state: alias_move(state, alias, target, expected=expected_version, reason=reason),
        )

    async def promote(self, ref: AdapterRef, *, expected_version: int | None = None, reason: str = "") -> AliasMove:
        """set_alias of "production"."""
        return await self.set_alias(PRODUCTION, ref, expected_version=expected_version, reason=reason)

    async def rollback(
        self,
        brand: str,
        adapter: str,
        alias: str = PRODUCTION,
        *,
        expected_version: int | None = None,
        reason: str = "",
    ) -> AliasMove:
        """Makes an alias name what it named before its last move; twice is back where it was.

        Raises:
            AdapterNotFound, AliasNotFound, AliasMoved, NothingToRollBack, AdapterYanked: as they say.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        return await self._move(
            brand,
            adapter,
            alias,
            lambda state: alias_rollback(state, brand, adapter, alias, expected=expected_version, reason=reason),
        )

    async def yank(self, target: AdapterRef, *, reason: str, replacement: int = 0, force: bool = False) -> Yanked:
        """Withdraws a version from service; the same again changes nothing and is answered as it was.

        Raises:
            NotFound: there is no such adapter, version or replacement.
            InvalidField: the replacement is the version itself.
            AdapterYanked: the replacement was yanked.
            VersionAliased: aliases name the version, and there is neither a replacement nor force.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        record, changed = await self._change(
            target.brand,
            target.adapter,
            lambda state: yank(state, target, replacement=replacement, force=force, reason=reason),
        )
        stored = pick(record.state, target)
        log.info("version.yanked", version=stored.version.version, replacement=replacement, changed=changed)
        return Yanked(stored.version, stored.yank_seq)

    async def history(
        self, brand: str, adapter: str, page_size: int, page_token: str, *, at_time: datetime | None = None
    ) -> Page[AdapterEvent]:
        """Records of the log, newest first, from the one that was in force at ``at_time``.

        Raises:
            AdapterNotFound, Malformed, StoreUnavailable: as they say.
        """
        scope = ["history", brand, adapter, at_time.isoformat() if at_time else ""]
        head, _ = await self._record(brand, adapter)
        known = self._adapters.log(brand, adapter)
        newest = await _seq_at(known, head.seq, at_time) if at_time and not page_token else head.seq
        numbers = range(paging.number_after(scope, page_token, newest=newest), 0, -1)
        events = paging.fitting([event_of(await known.record(seq)) for seq in numbers[:page_size]])
        more = paging.token(scope, str(events[-1].seq)) if len(numbers) > len(events) else ""
        return Page(tuple(events), more)

    async def everything(self) -> list[Adapter]:
        """Every adapter; where the store is out of reach, those that this replica remembers."""
        with contextlib.suppress(StoreUnavailable):
            await self._heads(await self._names(""))
        remembered = sorted(self._adapters.remembered().items())
        return [adapter_of(brand, adapter, record) for (brand, adapter), record in remembered if record.state.kept]

    def erased(self) -> list[tuple[str, tuple[str, ...]]]:
        """Brands of which something was erased, with digests of files that nobody may keep, as far as is known here."""
        remembered = sorted(self._adapters.remembered().items())
        return [(brand, gone) for (brand, _), record in remembered if (gone := record.state.erased_digests())]

    async def refresh(self, brand: str, adapter: str, seq: int) -> None:
        """Reads an adapter's log unless its record ``seq`` is known. Raises: StoreUnavailable."""
        with contextlib.suppress(RecordCorrupt):  # said where it is asked for
            await self._adapters.head(brand, adapter, min_seq=seq)

    async def reconcile(self) -> None:
        """Reads every adapter's newest record, so that memory can answer for all of them when the store cannot.

        Raises:
            StoreUnavailable: what was read until then is remembered.
        """
        names = await self._names("")
        await self._heads(names)
        log.debug("catalog.reconciled", adapters=len(names))

    async def _record(self, brand: str, adapter: str, *, min_seq: int = 0) -> tuple[AdapterRecord, datetime | None]:
        structlog.contextvars.bind_contextvars(brand=brand, adapter=adapter)
        head = await self._adapters.head(brand, adapter, min_seq=min_seq)
        if head.record is None or not head.record.state.kept:
            raise AdapterNotFound(brand, adapter)
        return head.record, head.stale_since

    async def _names(self, brand: str) -> list[tuple[str, str]]:
        # Sorted here: in keys "acme-x/" comes before "acme/", in names after it.
        brands = [brand] if brand else sorted(await self._store.folders(layout.BRANDS))
        return [
            (name, adapter) for name in brands for adapter in sorted(await self._store.folders(layout.adapters(name)))
        ]

    async def _heads(self, names: list[tuple[str, str]]) -> list[AdapterRecord | None]:
        """Newest records of many; None: there is none, or it can't be read, which is logged and hurts no other."""
        turns = asyncio.Semaphore(READS_AT_ONCE)

        async def head(name: tuple[str, str]) -> AdapterRecord | None:
            async with turns:
                try:
                    return (await self._adapters.head(*name)).record
                except RecordCorrupt as error:
                    log.error("adapter.unreadable", brand=name[0], adapter=name[1], error=str(error))  # noqa: TRY400  # the error says all
                    return None

        return list(await asyncio.gather(*map(head, names)))

    async def _find(self, brand: str, wanted: Callable[[AdapterState], StoredVersion | None]) -> StoredVersion | None:
        """A version of any adapter of a brand."""
        for look_again in (False, True):
            if look_again:  # another replica may just have published it
                await self._heads(await self._names(brand))
            for names, record in self._adapters.remembered().items():
                if names[0] == brand and (stored := wanted(record.state)):
                    return stored
        return None

    async def _move(
        self, brand: str, adapter: str, alias: str, rule: Callable[[AdapterState], AliasSet | None]
    ) -> AliasMove:
        record, moved = await self._change(brand, adapter, rule)
        move = AliasMove(
            record.state.alias(alias),
            record.event.previous_version
            if moved and isinstance(record.event, AliasSet)
            else record.state.aliases[alias].version,
            record.seq,
        )
        log.info("alias.set", alias=alias, version=move.alias.version, previous=move.previous_version, moved=moved)
        return move

    async def _change(
        self, brand: str, adapter: str, rule: Callable[[AdapterState], AliasSet | VersionYanked | None]
    ) -> tuple[AdapterRecord, bool]:
        """The newest record once the rule's event is in the log, and whether it had one."""
        structlog.contextvars.bind_contextvars(brand=brand, adapter=adapter)

        def decide(head: AdapterRecord | None) -> AliasSet | VersionYanked | None:
            if head is None or not head.state.kept:
                raise AdapterNotFound(brand, adapter)
            event = rule(head.state)
            return replace(event, actor=self._who()) if event else None

        record, changed = await self._adapters.commit(brand, adapter, decide=decide)
        assert record is not None  # noqa: S101  # decide refuses an empty log
        return record, changed


async def _seq_at(known: AdapterLog, newest: int, at_time: datetime) -> int:
    """Number of the last record not after a time; 0: there was none yet. Times never fall along a log."""
    low, high = 0, newest
    while low < high:
        middle = (low + high + 1) // 2
        if (await known.record(middle)).time <= at_time:
            low = middle
        else:
            high = middle - 1
    return low


def adapter_of(brand: str, adapter: str, record: AdapterRecord) -> Adapter:
    return Adapter(
        brand=brand,
        name=adapter,
        latest_version=record.state.kept[-1].version.version if record.state.kept else 0,
        aliases=record.state.all_aliases(),
        seq=record.seq,
        create_time=record.state.create_time,
        update_time=record.time,
        withdrawn_versions=record.state.withdrawn(),
    )


def event_of(record: AdapterRecord) -> AdapterEvent:
    event, aliases = record.event, record.state.all_aliases()
    if isinstance(event, VersionPublished):
        version = event.stored.version
        return AdapterEvent(
            record.seq,
            record.time,
            EventKind.PUBLISHED,
            version.version,
            aliases,
            actor=version.publisher,
            reason=version.note,
        )
    if isinstance(event, AllErased):
        return AdapterEvent(record.seq, record.time, EventKind.ERASED, 0, aliases)
    if isinstance(event, VersionYanked):
        return AdapterEvent(
            record.seq,
            record.time,
            EventKind.YANKED,
            event.version,
            aliases,
            actor=event.actor,
            reason=event.reason,
        )
    return AdapterEvent(
        record.seq,
        record.time,
        EventKind.ALIAS_SET,
        event.version,
        aliases,
        alias=event.alias,
        previous_version=event.previous_version,
        actor=event.actor,
        reason=event.reason,
    )
