"""From an upload to a version: checked against the brand and its base, received, stored, committed.

The file is in the store before the record that names it, so nothing half-published is ever visible. What a file may
hold is looksmith.lora's to say, and what a version is, adapter_state's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import structlog
from opentelemetry import metrics, trace

from looksmith.errors import LooksmithError
from looksmith.lora import Inspection
from looksmith.nouns import AdapterManifest, AdapterVersion
from services.registry.adapter_state import StoredVersion, VersionPublished, already_published, publication
from services.registry.blobs import Blobs, Received
from services.registry.commit_log import Surroundings
from services.registry.errors import BrandNotFound, BrandQuota
from services.registry.judging import Judging
from services.registry.messages import Published, PublishHeader
from services.registry.records import AdapterRecord, AdapterShelf, BrandShelf

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
        judging: Judging,
        around: Surroundings,
        who: Callable[[], str] = lambda: "",
    ) -> None:
        """``who``: names whoever is being answered, where a header does not."""
        self._who = who
        self._adapters, self._brands, self._blobs = adapters, brands, blobs
        self._judging, self._around = judging, around

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
            StoreUnavailable, OutcomeUnknown, LogContended: as CommitLog.commit.
        """
        structlog.contextvars.bind_contextvars(
            brand=header.brand, adapter=header.adapter, request_id=header.request_id, digest=header.digest
        )
        try:
            published = await self._publish(header, chunks, first_goes_live=first_goes_live)
        except LooksmithError as error:
            # One label value a class of error: the first code of a bad file, else the reason.
            code = error.violations[0].reason if error.violations else error.reason
            refusals.add(1, {"reason": code})
            raise
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
        if brand is None:
            raise BrandNotFound(header.brand)
        head = (await self._adapters.head(header.brand, header.adapter)).record
        if done := already_published(head.state if head else None, header):
            return done
        self._check_quota(header, brand.state.limits.max_stored_bytes)

        # 2. The bytes, judged as they come, then into the store.
        async with self._blobs.received(chunks, digest=header.digest, judge=judge) as received:
            with tracer.start_as_current_span("publish.store", attributes={"bytes": header.size_bytes}):
                blob = self._held_by_brand(header) or await self._blobs.put(header.brand, received)
            stored = StoredVersion(self._version(header, received), blob, header.request_id)

        # 3. The record that makes it visible.
        return await self._commit(header, stored, first_goes_live=first_goes_live)

    async def _commit(self, header: PublishHeader, stored: StoredVersion, *, first_goes_live: bool) -> Published:
        already: Published | None = None

        def decide(head: AdapterRecord | None) -> VersionPublished | None:
            nonlocal already
            state = head.state if head else None
            already = already_published(state, header)
            return None if already else publication(state, stored, header.aliases, first_goes_live=first_goes_live)

        with tracer.start_as_current_span("publish.commit"):
            record, _ = await self._adapters.commit(header.brand, header.adapter, decide=decide)
        if already:
            return already
        assert record is not None  # noqa: S101  # it holds what decide just returned
        newest = record.state.versions[-1].version
        return Published(newest, already_existed=False, aliases=record.state.aliases_of(newest.version))

    def _check_quota(self, header: PublishHeader, limit: int) -> None:
        """Counts what this replica knows of the brand, each file once; concurrent uploads may pass it together."""
        sizes = {stored.version.digest: stored.version.size_bytes for stored in self._files(header.brand)}
        needed = sum({**sizes, header.digest: header.size_bytes}.values())
        if limit and needed > limit:
            raise BrandQuota(header.brand, limit=limit, needed=needed)

    def _held_by_brand(self, header: PublishHeader) -> str | None:
        """The key of the same file under another adapter; only of this brand, so that nobody learns who has what."""
        return next((file.blob for file in self._files(header.brand) if file.version.digest == header.digest), None)

    def _files(self, brand: str) -> list[StoredVersion]:
        records = self._adapters.remembered()
        return [file for names, record in records.items() if names[0] == brand for file in record.state.versions]

    def _version(self, header: PublishHeader, received: Received) -> AdapterVersion:
        return AdapterVersion(
            brand=header.brand,
            adapter=header.adapter,
            version=0,  # numbered when it is committed
            digest=received.inspection.sha256,
            size_bytes=received.inspection.file_bytes,
            manifest=manifest_of(received.inspection, header.base_digest),
            publish_time=self._around.wall_clock(),
            publisher=header.publisher or self._who(),
            note=header.note,
            labels=dict(header.labels),
        )


def manifest_of(inspection: Inspection, base_digest: str) -> AdapterManifest:
    """What a worker must know before it fetches the file; ``base_digest`` is what the publisher declared."""
    return AdapterManifest(
        family=inspection.family,
        base_digest=base_digest,
        dialect=inspection.dialect.value,
        modules=len(inspection.modules),
        parameters=inspection.parameters,
        ranks=inspection.ranks,
        components=inspection.components,
        convolutions=any(module.kind == "conv" for module in inspection.modules),
        warnings=tuple(f"{problem.code}: {problem.what}" for problem in inspection.warnings),
    )
