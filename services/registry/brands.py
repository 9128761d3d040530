"""Records of brands: put with an expected version, read, listed. What is in a record is looksmith.nouns'."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from looksmith.nouns import Brand
from services.registry import layout, paging
from services.registry.errors import BrandNotFound, BrandVersionMismatch, RecordCorrupt
from services.registry.messages import Page
from services.registry.object_store import ObjectStore
from services.registry.records import BrandPut, BrandRecord, BrandShelf

log = structlog.get_logger()


class Brands:
    def __init__(self, *, shelf: BrandShelf, store: ObjectStore) -> None:
        self._shelf, self._store = shelf, store

    async def put(self, brand: Brand, expected_version: int | None = None) -> Brand:
        """Creates or replaces a record and returns it as stored.

        Raises:
            BrandVersionMismatch: the record does not have ``expected_version``; 0 expects that there is none.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        structlog.contextvars.bind_contextvars(brand=brand.name)

        def decide(head: BrandRecord | None) -> BrandPut:
            found = head.seq if head and head.state else 0
            if expected_version is not None and expected_version != found:
                raise BrandVersionMismatch(brand.name, expected=expected_version, found=found)
            return BrandPut(brand)

        record, _ = await self._shelf.commit(brand.name, decide=decide)
        assert record is not None and record.state is not None  # noqa: S101, PT018  # what decide returned made them
        log.info("brand.put", version=record.seq)
        return record.state

    async def get(self, name: str) -> Brand:
        """Raises: BrandNotFound; StoreUnavailable where memory does not have the brand either."""
        structlog.contextvars.bind_contextvars(brand=name)
        record = (await self._shelf.head(name)).record
        if record is None or record.state is None:
            raise BrandNotFound(name)
        return record.state

    async def list_brands(
        self, page_size: int, page_token: str, *, shown: Callable[[str], bool] = lambda _brand: True
    ) -> Page[Brand]:
        """Records by name, of those brands that may be ``shown``.

        Raises:
            Malformed: the page token is of another list.
            StoreUnavailable: the store cannot be listed.
        """
        start = paging.after(["brands"], page_token)
        names = [name for name in sorted(await self._store.folders(layout.BRANDS)) if name > start and shown(name)]
        found = [(name, await self._record(name)) for name in names[:page_size]]
        fitting = paging.fitting(found)
        more = paging.token(["brands"], fitting[-1][0]) if len(names) > len(fitting) else ""
        return Page(tuple(brand for _, brand in fitting if brand), more)

    async def reconcile(self) -> None:
        """Reads every brand's newest record, so that memory can answer when the store cannot."""
        for name in await self._store.folders(layout.BRANDS):
            await self._record(name)

    async def _record(self, name: str) -> Brand | None:
        """A record for a list of many; one that can't be read is logged, and is missing there alone."""
        try:
            record = (await self._shelf.head(name)).record
        except RecordCorrupt as error:
            log.error("brand.unreadable", brand=name, error=str(error))  # noqa: TRY400  # the error says all
            return None
        return record.state if record else None
