"""From an upload to a version: checked against the brand and its base, received, stored, committed.

The file is in the store before the record that names it, so nothing half-published is ever visible. What a file may
hold is looksmith.lora's to say, and what a version is, adapter_state's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import structlog
from opentelemetry import metrics, trace

from looksmith.errors import LooksmithError
from looksmith.lora import Inspection
from looksmith.nouns import AdapterManifest, AdapterVersion
from services.registry.adapter_state import AllErased, StoredVersion, VersionPublished, already_published, publication
from services.registry.blobs import Blobs
from services.registry.commit_log import Surroundings
from services.registry.errors import (
    AdapterRefused,
    BrandNotFound,
    BrandQuota,
    DigestMismatch,
    OutcomeUnknown,
    PublicationTooSlow,
    StoreUnavailable,
)
from services.registry.intake import take_in
from services.registry.judging import Judge, Judging
from services.registry.messages import Published, PublishHeader
from services.registry.records import AdapterRecord, AdapterShelf, BrandShelf
from services.registry.uploads import Destination, Uploads

log = structlog.get_logger()
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)

publishes = meter.create_counter("looksmith_publishes", description="Publications that were accepted, by outcome.")
refusals = meter.create_counter("looksmith_publish_refusals", description="Publications that failed, by reason.")


class Publisher:
    def __init__(
        self,
        *,
        adapters: AdapterShelf,
        brands: BrandShelf,
        blobs: Blobs,
        uploads: Uploads,
        judging: Judging,
        around: Surroundings,
        commit_window_s: float,
        who: Callable[[], str] = lambda: "",
    ) -> None:
        """Takes its collaborators.

        Args:
            adapters: logs of adapters.
            brands: logs of brands.
            blobs: where files go.
            uploads: those that can be resumed.
            judging: decides which files may be published.
            around: clocks and chance.
            commit_window_s: seconds from the last byte of a file after which no record may name it any more.
            who: names whoever is being answered, where a header does not.
        """
        self._who = who
        self._adapters, self._brands, self._blobs, self._uploads = adapters, brands, blobs, uploads
        self._judging, self._around, self._commit_window = judging, around, timedelta(seconds=commit_window_s)

    async def publish(
        self, header: PublishHeader, chunks: AsyncIterator[bytes], *, first_goes_live: bool = True
    ) -> Published:
        """Makes a file the adapter's next version, unless the adapter holds it already.

        Args:
            header: what the file is.
            chunks: its bytes.
            first_goes_live: whether the adapter's first version becomes "production" if the header names no alias.

        Raises:
            InvalidArgument: the family is unknown, or the file is refused (AdapterRefused, E_SIZE).
            BrandNotFound, BrandQuota, RequestIdReused, DigestMismatch, AdapterYanked: as they say.
            UploadOffset: the header goes on from another place than the one up to which the file is held.
            PublicationTooSlow: an object that no record names may be collected by now; the same again may do.
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        structlog.contextvars.bind_contextvars(
            brand=header.brand, adapter=header.adapter, request_id=header.request_id, digest=header.digest
        )
        received = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal received
            async for chunk in chunks:
                received += len(chunk)
                yield chunk

        try:
            published = await self._publish(header, counted(), first_goes_live=first_goes_live)
        except LooksmithError as error:
            # One label value a class of error: the first code of a bad file, else the reason.
            code = error.violations[0].reason if error.violations else error.reason
            refusals.add(1, {"reason": code})
            raise
        finally:
            structlog.contextvars.bind_contextvars(offset=header.offset, received_bytes=received)
        publishes.add(1, {"outcome": "already_existed" if published.already_existed else "published"})
        log.info(
            "adapter.published",
            version=published.version.version,
            size_bytes=published.version.size_bytes,
            already_existed=published.already_existed,
        )
        return published

    async def _publish(
        self, header: PublishHeader, chunks: AsyncIterator[bytes], *, first_goes_live: bool
    ) -> Published:
        # 1. What the header alone decides.
        judge = self._judging(header)
        brand = (await self._brands.head(header.brand)).record
        if brand is None or brand.state is None:
            raise BrandNotFound(header.brand)
        if header.offset:  # it may have been published since the connection broke off, at another replica
            head = await self._adapters.newest(header.brand, header.adapter)
        else:
            head = (await self._adapters.head(header.brand, header.adapter)).record
        if done := already_published(head.state if head else None, header):
            return done
        self._check_quota(header, brand.state.limits.max_stored_bytes)

        # 2. The bytes, judged and stored as they come.
        if header.offset:
            session, held = await self._uploads.resume(header)
            chunks = self._uploads.from_start(header, session, held, chunks)
        else:
            session, held = self._uploads.new(header), []
        destination = Destination(header, session, held=held, uploads=self._uploads, blobs=self._blobs)
        try:
            with tracer.start_as_current_span("publish.receive", attributes={"bytes": header.size_bytes}):
                stored = await self._receive(header, judge, chunks, destination)
        except (AdapterRefused, DigestMismatch):
            if destination.is_open:
                await self._uploads.drop(header)
            raise
        complete = min(self._around.wall_clock(), self._uploads.expiry_of(destination.session))

        # 3. The record that makes it visible.
        until = complete + self._commit_window
        published = await self._commit(header, stored, brand.seq, until=until, first_goes_live=first_goes_live)
        if destination.is_open:
            await self._uploads.drop(header)
        return published

    async def _receive(
        self, header: PublishHeader, judge: Judge, chunks: AsyncIterator[bytes], destination: Destination
    ) -> StoredVersion:
        """The version that a file may become, once all of it is in the store."""
        same = None if destination.is_open else await self._held_by_brand(header)

        async def keep(index: int, data: memoryview) -> str:
            return "" if same else await destination.keep(index, data)

        taken = await take_in(
            chunks,
            judge=judge,
            digest=header.digest,
            size=header.size_bytes,
            part_bytes=self._blobs.part_bytes,
            keep=keep,
        )
        version = self._version(header, taken.inspection)
        if same:
            return StoredVersion(version, same.blob, header.request_id, parts=same.parts)
        return StoredVersion(version, destination.blob, header.request_id, parts=tuple(filter(None, taken.parts)))

    async def _commit(
        self, header: PublishHeader, stored: StoredVersion, brand_seq: int, *, until: datetime, first_goes_live: bool
    ) -> Published:
        already: Published | None = None

        def decide(head: AdapterRecord | None) -> VersionPublished | None:
            nonlocal already
            state = head.state if head else None
            if state and state.erased_by >= brand_seq:
                raise BrandNotFound(header.brand)
            already = already_published(state, header)
            if not already and self._around.wall_clock() > until:
                raise PublicationTooSlow
            return None if already else publication(state, stored, header.aliases, first_goes_live=first_goes_live)

        with tracer.start_as_current_span("publish.commit"):
            record, _ = await self._adapters.commit(header.brand, header.adapter, decide=decide)
        if already:
            return already
        assert record is not None  # noqa: S101  # it holds what decide just returned
        if record.seq == 1:
            await self._erase_if_late(header, brand_seq)
        newest = record.state.versions[-1].version
        return Published(newest, already_existed=False, aliases=record.state.aliases_of(newest.version))

    async def _erase_if_late(self, header: PublishHeader, brand_seq: int) -> None:
        """An adapter's first record has no other before it to say that the brand was erased: this one is undone.

        Raises:
            BrandNotFound: so it was.
            OutcomeUnknown: nobody knows whether it has to be.
        """
        try:
            erased_by = await self._erased_since(header.brand, brand_seq)
        except StoreUnavailable:
            raise OutcomeUnknown from None
        if erased_by:
            by = AllErased(erased_by)
            record, _ = await self._adapters.commit(header.brand, header.adapter, decide=lambda _head: by)
            await self._adapters.log(header.brand, header.adapter).erase_text(record.seq if record else 0)
            raise BrandNotFound(header.brand)

    async def _erased_since(self, brand: str, seq: int) -> int:
        """Number of the record by which a brand was erased after its record ``seq``; 0: it was not."""
        newest, known = await self._brands.newest(brand), self._brands.log(brand)
        for number in range(newest.seq if newest else 0, seq, -1):
            if (await known.record(number)).state is None:  # made anew since, perhaps
                return number
        return 0

    def _check_quota(self, header: PublishHeader, limit: int) -> None:
        """Counts what this replica knows of the brand, each file once; concurrent uploads may pass it together."""
        sizes = {stored.version.digest: stored.version.size_bytes for stored in self._files(header.brand)}
        needed = sum({**sizes, header.digest: header.size_bytes}.values())
        if limit and needed > limit:
            raise BrandQuota(header.brand, limit=limit, needed=needed)

    async def _held_by_brand(self, header: PublishHeader) -> StoredVersion | None:
        """The same file under another adapter; only of this brand, so that nobody learns who has what."""
        for file in self._files(header.brand):
            if file.version.digest == header.digest:
                newest = await self._adapters.newest(header.brand, file.version.adapter)  # it may have been erased
                return newest.state.with_digest(header.digest) if newest else None
        return None

    def _files(self, brand: str) -> list[StoredVersion]:
        records = self._adapters.remembered()
        return [file for names, record in records.items() if names[0] == brand for file in record.state.kept]

    def _version(self, header: PublishHeader, inspection: Inspection) -> AdapterVersion:
        return AdapterVersion(
            brand=header.brand,
            adapter=header.adapter,
            version=0,  # numbered when it is committed
            digest=inspection.sha256,
            size_bytes=inspection.file_bytes,
            manifest=manifest_of(inspection, header),
            publish_time=self._around.wall_clock(),
            publisher=header.publisher or self._who(),
            note=header.note,
            labels=dict(header.labels),
        )


def manifest_of(inspection: Inspection, header: PublishHeader) -> AdapterManifest:
    """What a worker must know before it fetches the file, and its lineage: what its publisher says of it goes first."""
    return AdapterManifest(
        family=inspection.family,
        base_digest=header.base_digest,
        dialect=inspection.dialect.value,
        modules=len(inspection.modules),
        parameters=inspection.parameters,
        ranks=inspection.ranks,
        components=inspection.components,
        convolutions=any(module.kind == "conv" for module in inspection.modules),
        warnings=tuple(f"{problem.code}: {problem.what}" for problem in inspection.warnings),
        lineage=header.lineage.or_else(inspection.lineage),
    )
