"""Deletes what failed, abandoned and refused publications left in the store, and what an erasure that broke off did.

Asks nobody: a key is written by one publication only, which ends within a bounded time, so that an old object that no
log names can never be named. Says when to look; what lies where is layout's to know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from opentelemetry import metrics

from looksmith.errors import LooksmithError
from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.erasure import Eraser
from services.registry.errors import RecordCorrupt, StoreUnavailable
from services.registry.object_store import ObjectStore, StoredObject, delete_all, listing_of
from services.registry.records import AdapterShelf, BrandShelf

log = structlog.get_logger()
meter = metrics.get_meter(__name__)

collected_bytes = meter.create_counter(
    "looksmith_collected_bytes", unit="By", description="Bytes of objects that the collector has deleted."
)


@dataclass(frozen=True)
class Collected:
    """What a collection deleted, or would have, and what it left alone for now since it may yet be named."""

    deleted_objects: int = 0
    deleted_bytes: int = 0
    young_objects: int = 0
    young_bytes: int = 0


class Collector:
    def __init__(
        self,
        *,
        store: ObjectStore,
        adapters: AdapterShelf,
        brands: BrandShelf,
        eraser: Eraser,
        around: Surroundings,
        grace_s: float,
    ) -> None:
        """``grace_s``: seconds from the writing of an object after which no publication can name it any more."""
        self._store, self._adapters, self._brands, self._eraser = store, adapters, brands, eraser
        self._around, self._grace = around, timedelta(seconds=grace_s)

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Looks at every brand once. Any number of replicas may do so at a time.

        A brand whose logs can't be read keeps everything.

        Raises:
            StoreUnavailable, StoreRefused: the store can't be listed, or refuses a deletion; the next run goes on.
        """
        old: list[StoredObject] = []
        young: list[StoredObject] = []
        async with self._store_time() as now:
            for brand in await self._store.folders(layout.BRANDS):
                try:
                    for found in await self._unnamed(brand, dry_run=dry_run):
                        (old if now - found.modified > self._grace else young).append(found)
                except RecordCorrupt as error:
                    log.error("brand.not_collected", brand=brand, error=error.message)  # noqa: TRY400  # the error says all
            # Of collectors that were killed at it.
            readings = [found async for found in listing_of(self._store, layout.CLOCK)]
            old += [found for found in readings if now - found.modified > self._grace]
        if not dry_run:
            await delete_all(self._store, [found.key for found in old])
            collected_bytes.add(sum(found.size for found in old))
        collected = Collected(len(old), sum(f.size for f in old), len(young), sum(f.size for f in young))
        log.info("garbage.collected", dry_run=dry_run, objects=len(old), bytes=collected.deleted_bytes)
        return collected

    async def run(self, every_s: float) -> None:
        """Collects now and again, without end; replicas that started together spread out."""
        while True:
            await self._around.sleep(every_s * (0.5 + self._around.random.random()))
            try:
                await self.collect()
            except LooksmithError as error:
                log.warning("garbage.not_collected", error=error.message)
            except Exception:  # the next run may do better
                log.exception("garbage.not_collected")

    async def _unnamed(self, brand: str, *, dry_run: bool) -> list[StoredObject]:
        """Objects of a brand that no log names."""
        # Listed first: what a log names by then is in it when it is read, and what no log names by then must be young.
        files = [
            found
            async for found in listing_of(self._store, layout.everything_of(brand))
            if not layout.is_record(brand, found.key)
        ]
        head = await self._brands.newest(brand)
        if head and head.state is None and not dry_run and not await self._eraser.is_done(brand):
            await self._eraser.erase(brand)
            return []
        if not files:
            return []
        named: set[str] = set()
        for adapter in await self._store.folders(layout.adapters(brand)):
            record = await self._adapters.newest(brand, adapter)
            named |= {key for stored in record.state.kept for key in stored.keys} if record else set()
        return [found for found in files if found.key not in named]

    @asynccontextmanager
    async def _store_time(self) -> AsyncIterator[datetime]:
        """The time by the store's clock, which also wrote on each object when it was written."""
        key = layout.clock_reading(self._around.new_id())
        await self._store.put(key, b"")
        try:
            found = await self._store.listing(key)
            if not found:
                raise StoreUnavailable("it does not list what was just written")
            yield found[0].modified
        finally:
            await self._store.delete(key)
