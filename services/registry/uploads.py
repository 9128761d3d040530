"""Uploads that can be resumed: what the store knows of each, how much of its file is there, and when it is too late.

Knows nothing about versions but whether a request has made one, in which case there is nothing to resume.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydantic import TypeAdapter, ValidationError

from looksmith.errors import LooksmithError
from services.registry import layout
from services.registry.adapter_state import StoredVersion
from services.registry.blobs import Blobs, PartDamaged
from services.registry.commit_log import Surroundings
from services.registry.errors import RequestIdReused, StoreUnavailable, UploadNotFound, UploadOffset
from services.registry.messages import PublishHeader, UploadState
from services.registry.object_store import Creation, ObjectStore

log = structlog.get_logger()

#: Tries to write a session where the store does not say what became of it.
OPEN_TRIES = 3


@dataclass(frozen=True)
class Session:
    """One upload: the id in its file's key, what was announced of the file, and when it began."""

    upload_id: str
    adapter: str
    digest: str
    size_bytes: int
    start_time: datetime

    def agrees_with(self, header: PublishHeader) -> bool:
        return (self.adapter, self.digest, self.size_bytes) == (header.adapter, header.digest, header.size_bytes)


_SESSION = TypeAdapter(Session)

#: The version that a request made, by brand and request id.
PublishedBy = Callable[[str, str], Awaitable[StoredVersion | None]]


class Uploads:
    def __init__(
        self, *, store: ObjectStore, blobs: Blobs, around: Surroundings, published_by: PublishedBy, expiry_s: float
    ) -> None:
        """``expiry_s``: seconds from the start of an upload after which it can't be resumed."""
        self._store, self._blobs, self._around, self._published_by = store, blobs, around, published_by
        self._expiry = timedelta(seconds=expiry_s)

    async def state(self, brand: str, request_id: str) -> UploadState:
        """How much of a file is held.

        Raises:
            UploadNotFound: nothing, or it has expired.
            StoreUnavailable: the store cannot be asked.
        """
        if session := await self._find(brand, request_id):
            blob = layout.blob(brand, session.digest, session.upload_id)
            held = await self._blobs.whole_parts(blob, session.size_bytes)
            return UploadState(self._bytes_of(held, session.size_bytes), self.expiry_of(session))
        if published := await self._published_by(brand, request_id):
            return UploadState(published.version.size_bytes)
        raise UploadNotFound(request_id)

    def expiry_of(self, session: Session) -> datetime:
        return session.start_time + self._expiry

    def new(self, header: PublishHeader) -> Session:
        """An upload that begins now; nobody can resume it unless it is opened."""
        return Session(
            upload_id=self._around.new_id(),
            adapter=header.adapter,
            digest=header.digest,
            size_bytes=header.size_bytes,
            start_time=self._around.wall_clock(),
        )

    async def open(self, header: PublishHeader, session: Session) -> Session:
        """Makes an upload one that can be resumed, and returns it; or the one that another stream of it has opened.

        Raises:
            RequestIdReused: the request id is that of an unfinished upload of another file.
            StoreUnavailable: it may or may not be open.
        """
        key = layout.upload(header.brand, header.request_id)
        for _ in range(OPEN_TRIES):
            created = await self._store.create_if_absent(key, _SESSION.dump_json(session))
            if created is Creation.CREATED:
                return session
            if found := await self._find(header.brand, header.request_id):
                if not found.agrees_with(header):
                    raise RequestIdReused(header.request_id, 0, found.digest)
                return found
            if created is Creation.EXISTS:
                await self._store.delete(key)  # it has expired
        raise StoreUnavailable("it does not say whether it has taken an upload's record")

    async def resume(self, header: PublishHeader) -> tuple[Session, list[str]]:
        """The upload that a header goes on with, and the names of the parts that are there.

        Raises:
            UploadOffset: other bytes are held than the header goes on from.
            RequestIdReused: the request id is that of an unfinished upload of another file.
            StoreUnavailable: the store cannot be asked.
        """
        session = await self._find(header.brand, header.request_id)
        if session is None:
            raise UploadOffset(header.offset, held=0)
        if not session.agrees_with(header):
            raise RequestIdReused(header.request_id, 0, session.digest)
        blob = layout.blob(header.brand, session.digest, session.upload_id)
        parts = await self._blobs.whole_parts(blob, session.size_bytes)
        held = self._bytes_of(parts, session.size_bytes)
        if header.offset != held:
            raise UploadOffset(header.offset, held=held)
        log.info("upload.resumed", offset=held, size_bytes=session.size_bytes)
        return session, parts

    async def from_start(
        self, header: PublishHeader, session: Session, parts: list[str], rest: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """All bytes of a resumed upload: those that are held, read back, and those that come now.

        Raises:
            UploadOffset: a part is not what it was stored as; the upload is dropped.
        """
        blob = layout.blob(header.brand, session.digest, session.upload_id)
        for name in parts:
            try:
                data = await self._blobs.part(blob, name)
            except PartDamaged as damaged:
                log.error("upload.part_damaged", blob=blob, part=str(damaged))  # noqa: TRY400  # the name says all
                await self.drop(header)
                raise UploadOffset(header.offset, held=0) from None
            yield data
        async for chunk in rest:
            yield chunk

    async def drop(self, header: PublishHeader) -> None:
        """Forgets an upload that is done or no good, if the store lets it; if not, it expires."""
        try:
            await self._store.delete(layout.upload(header.brand, header.request_id))
        except LooksmithError as error:
            log.info("upload.not_dropped", error=error.message)

    def _bytes_of(self, parts: list[str], size: int) -> int:
        return min(len(parts) * self._blobs.part_bytes, size)

    async def _find(self, brand: str, request_id: str) -> Session | None:
        data = await self._store.get(layout.upload(brand, request_id))
        if data is None:
            return None
        try:
            session = _SESSION.validate_json(data)
        except ValidationError as error:
            log.error("upload.unreadable", brand=brand, faults=error.error_count())  # noqa: TRY400  # the count says all
            return None
        return session if self._around.wall_clock() < self.expiry_of(session) else None


class Destination:
    """Where one file goes: an object of its own, or parts, of an upload that is opened with the first of them.

    Attributes:
        session: the upload, as far as it is known by now.
        is_open: whether it can be resumed.
    """

    def __init__(
        self, header: PublishHeader, session: Session, *, held: list[str], uploads: Uploads, blobs: Blobs
    ) -> None:
        """``held``: parts that are there already; none: a new upload."""
        self._header, self.session, self._held = header, session, held
        self._uploads, self._blobs = uploads, blobs
        self._in_parts = header.size_bytes > blobs.part_bytes
        self.is_open = bool(held)
        self._opening = asyncio.Lock()

    @property
    def blob(self) -> str:
        return layout.blob(self._header.brand, self._header.digest, self.session.upload_id)

    async def keep(self, index: int, data: memoryview) -> str:
        """Stores a part of a file, or a small one whole; its name, which is empty for a whole file."""
        if index < len(self._held):
            return self._held[index]
        if not self._in_parts:
            await self._blobs.put(self.blob, data)
            return ""
        async with self._opening:
            if self._header.request_id and not self.is_open:
                self.session = await self._uploads.open(self._header, self.session)
                self.is_open = True
        return await self._blobs.put_part(self.blob, index, data)
