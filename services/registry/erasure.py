"""Erases a brand: no publication begins or ends any more, its files go, and its logs keep digests and times only.

May break off anywhere: done once more, it goes on. What outlasts erasure in a record is adapter_state's to say.
"""

from __future__ import annotations

from typing import Any

import structlog

from services.registry import layout
from services.registry.adapter_state import AllErased
from services.registry.commit_log import CommitLog
from services.registry.errors import BrandNotFound, RecordCorrupt
from services.registry.object_store import ObjectStore, delete_all, listing_of
from services.registry.records import AdapterRecord, AdapterShelf, BrandErased, BrandRecord, BrandShelf

log = structlog.get_logger()


class Eraser:
    def __init__(self, *, store: ObjectStore, adapters: AdapterShelf, brands: BrandShelf) -> None:
        self._store, self._adapters, self._brands = store, adapters, brands

    async def erase(self, brand: str) -> int:
        """Erases a brand, or what an earlier try left of it, and returns the bytes of files that were deleted.

        Raises:
            BrandNotFound: there never was one.
            RecordCorrupt: a log can't be read, so that its text is still there; everything else is erased.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit; the next try goes on.
        """
        structlog.contextvars.bind_contextvars(brand=brand)
        # 1. From here on nothing new begins.
        by = await self._close_brand(brand)
        # 2. What has begun can't end: each log's own record stands in its way.
        corrupt: dict[str, RecordCorrupt] = {}
        closed: dict[str, int] = {}
        while await self._close_adapters(brand, by, closed, corrupt):
            pass
        # 3. Files, and uploads under way.
        files = [found async for found in listing_of(self._store, layout.everything_of(brand))]
        files = [found for found in files if not layout.is_record(brand, found.key)]
        await delete_all(self._store, [found.key for found in files])
        # 4. What people wrote; the brand's own record last, so that it tells that all is done.
        for adapter, seq in closed.items():
            await self._adapters.log(brand, adapter).erase_text(seq)
        await self._brands.log(brand).erase_text(by)
        freed = sum(found.size for found in files)
        log.info("brand.erased", objects=len(files), freed_bytes=freed)
        for error in corrupt.values():
            raise error
        return freed

    async def is_done(self, brand: str) -> bool:
        """Whether nothing is left of an erased brand but what may be."""
        head = await self._brands.newest(brand)
        if head is None or head.state is not None or not await self._is_bare(self._brands.log(brand)):
            return False
        async for found in listing_of(self._store, layout.everything_of(brand)):
            if not layout.is_record(brand, found.key):
                return False
        for adapter in await self._store.folders(layout.adapters(brand)):
            record = await self._adapters.newest(brand, adapter)
            if record and (record.state.kept or not await self._is_bare(self._adapters.log(brand, adapter))):
                return False
        return True

    async def _is_bare(self, log_: CommitLog[Any, Any]) -> bool:
        """Whether the text of a log is erased: its newest record's goes last. Memory may be older than that."""
        return bool((await log_.stored(log_.seq)).stands_for)

    async def _close_brand(self, brand: str) -> int:
        def decide(head: BrandRecord | None) -> BrandErased | None:
            if head is None:
                raise BrandNotFound(brand)
            return BrandErased(brand) if head.state else None

        record, _ = await self._brands.commit(brand, decide=decide)
        assert record is not None  # noqa: S101  # decide refuses an empty log
        return record.seq

    async def _close_adapters(
        self, brand: str, by: int, closed: dict[str, int], corrupt: dict[str, RecordCorrupt]
    ) -> bool:
        """Ends the logs that are not known to be ended; whether there were any."""

        def decide(head: AdapterRecord | None) -> AllErased | None:
            return None if head is None or head.state.erased_by >= by else AllErased(by)

        found = [name for name in await self._store.folders(layout.adapters(brand)) if name not in {*closed, *corrupt}]
        for adapter in found:
            try:
                record, _ = await self._adapters.commit(brand, adapter, decide=decide)
                closed[adapter] = record.seq if record else 0
            except RecordCorrupt as error:
                corrupt[adapter] = error
        return bool(found)
