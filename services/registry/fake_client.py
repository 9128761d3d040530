"""A registry in memory, for tests of whatever depends on one: the real rules, no server, and files taken on trust.

Any bytes can be published; what a manifest says about them is made up.
"""

# ruff: noqa: ARG002  # the Protocol fixes the arguments

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime

from looksmith.lora import Code, Dialect, Inspection, LoraError, Problem
from looksmith.nouns import PRODUCTION, Adapter, AdapterRef, AdapterVersion, Brand, Resolved, check_name
from services.registry.collector import Collected
from services.registry.commit_log import Surroundings
from services.registry.content import Content, pieces_of
from services.registry.convert import by_field
from services.registry.core import Core, assemble
from services.registry.errors import ConfirmationMissing
from services.registry.messages import (
    AdapterEvent,
    AliasMove,
    Page,
    Published,
    PublishHeader,
    UploadState,
    Yanked,
    check_reason,
)
from services.registry.object_store import InMemoryObjectStore
from services.registry.paging import check_page_size
from services.registry.watch import Message


class TrustingJudge:
    """Counts and hashes; finds nothing wrong but a wrong length."""

    def __init__(self, header: PublishHeader) -> None:
        self._header, self._sha256, self._size = header, hashlib.sha256(), 0

    def feed(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._size += len(chunk)

    def finish(self) -> Inspection:
        if self._size != self._header.size_bytes:
            what = f"{self._size} bytes came, {self._header.size_bytes} were announced"
            raise LoraError(Problem(Code.E_SIZE, what))
        return Inspection(
            sha256=self._sha256.hexdigest(),
            file_bytes=self._size,
            family=self._header.family,
            base_digest=self._header.base_digest,
            dialect=Dialect.DIFFUSERS,
            modules=(),
            warnings=(),
        )


class FakeRegistryClient:
    """Keeps the contract of services.registry.client.RegistryClient. Deadlines are taken and not kept.

    Attributes:
        store: what lies under it; ``store.reachable = False`` makes answers stale, then unavailable.
    """

    def __init__(self, *, around: Surroundings | None = None, core: Core | None = None) -> None:
        """``core``: lies under it, on a store of its own, instead of one on ``store``."""
        self.store = InMemoryObjectStore()
        core = core or assemble(
            store=self.store,
            judging=TrustingJudge,
            around=around or Surroundings(writer="fake"),
            head_max_age_s=0,
        )
        self._brands, self._catalog, self._publisher = core.brands, core.catalog, core.publisher
        self._uploads = core.uploads
        self._watches = core.watches
        self._eraser, self._collector = core.eraser, core.collector

    async def put_brand(self, brand: Brand, *, expected_version: int | None = None, deadline_s: float = 0) -> Brand:
        return await self._brands.put(brand, expected_version)

    async def get_brand(self, name: str, *, deadline_s: float = 0) -> Brand:
        return await self._brands.get(name)

    async def list_brands(self, *, page_size: int = 0, page_token: str = "", deadline_s: float = 0) -> Page[Brand]:
        with by_field():
            return await self._brands.list_brands(check_page_size(page_size), page_token)

    async def delete_brand(self, name: str, *, confirm_name: str, deadline_s: float = 0) -> int:
        if confirm_name != name:
            raise ConfirmationMissing(name)
        return await self._eraser.erase(name)

    async def collect_garbage(self, *, dry_run: bool = False, deadline_s: float = 0) -> Collected:
        return await self._collector.collect(dry_run=dry_run)

    async def publish(
        self,
        header: PublishHeader,
        content: Content,
        *,
        on_progress: Callable[[int], None] | None = None,
        deadline_s: float = 0,
    ) -> Published:
        async def chunks() -> AsyncIterator[bytes]:
            sent = 0
            for piece in pieces_of(content):
                yield piece
                sent += len(piece)
                if on_progress:
                    on_progress(sent)

        return await self._publisher.publish(header, chunks())

    async def get_upload(self, brand: str, request_id: str, *, deadline_s: float = 0) -> UploadState:
        return await self._uploads.state(brand, request_id)

    async def get_adapter(self, brand: str, adapter: str, *, deadline_s: float = 0) -> Adapter:
        return await self._catalog.get(brand, adapter)

    async def list_adapters(
        self, brand: str = "", *, page_size: int = 0, page_token: str = "", deadline_s: float = 0
    ) -> Page[Adapter]:
        with by_field():
            return await self._catalog.list_adapters(brand, check_page_size(page_size), page_token)

    async def list_versions(
        self, brand: str, adapter: str, *, page_size: int = 0, page_token: str = "", deadline_s: float = 0
    ) -> Page[AdapterVersion]:
        with by_field():
            return await self._catalog.list_versions(brand, adapter, check_page_size(page_size), page_token)

    async def resolve(self, ref: AdapterRef, *, min_seq: int = 0, deadline_s: float = 0) -> Resolved:
        return await self._catalog.resolve(ref, min_seq)

    async def download(
        self, brand: str, digest: str, *, offset: int = 0, limit: int = 0, deadline_s: float = 0
    ) -> AsyncIterator[bytes]:
        async for chunk in await self._catalog.open(brand, digest, offset=offset, limit=limit):
            yield chunk

    async def set_alias(
        self,
        brand: str,
        adapter: str,
        alias: str,
        version: int,
        *,
        expected_version: int | None = None,
        reason: str = "",
        deadline_s: float = 0,
    ) -> AliasMove:
        target = AdapterRef(brand, adapter, version)
        return await self._catalog.set_alias(alias, target, expected_version=expected_version, reason=reason)

    async def promote(
        self, ref: AdapterRef, *, expected_version: int | None = None, reason: str = "", deadline_s: float = 0
    ) -> AliasMove:
        return await self._catalog.promote(ref, expected_version=expected_version, reason=reason)

    async def rollback(
        self,
        brand: str,
        adapter: str,
        *,
        alias: str = PRODUCTION,
        expected_version: int | None = None,
        reason: str = "",
        deadline_s: float = 0,
    ) -> AliasMove:
        return await self._catalog.rollback(brand, adapter, alias, expected_version=expected_version, reason=reason)

    async def yank(
        self,
        brand: str,
        adapter: str,
        version: int,
        *,
        reason: str,
        replacement: int = 0,
        force: bool = False,
        deadline_s: float = 0,
    ) -> Yanked:
        with by_field():
            target, reason = AdapterRef(brand, adapter, version), check_reason(reason)
        return await self._catalog.yank(target, reason=reason, replacement=replacement, force=force)

    async def watch(self, brand: str = "", *, cursor: str = "") -> AsyncGenerator[Message, None]:
        if brand:
            with by_field():
                check_name("brand", brand)
        async for message in self._watches.messages(cursor, lambda name: not brand or name == brand):
            yield message

    async def history(
        self,
        brand: str,
        adapter: str,
        *,
        at_time: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float = 0,
    ) -> Page[AdapterEvent]:
        with by_field():
            return await self._catalog.history(brand, adapter, check_page_size(page_size), page_token, at_time=at_time)
