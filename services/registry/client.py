"""The registry as other services and publishers see it: domain objects in and out, errors as the registry raised them.

RegistryClient speaks to a server; FakeRegistryClient keeps the same contract in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

import grpc

from looksmith import convert
from looksmith.errors import error_from_rpc
from looksmith.nouns import PRODUCTION, Adapter, AdapterRef, AdapterVersion, Brand, Resolved
from looksmith.uploading import upload
from looksmith.v1 import brand_pb2, brand_pb2_grpc, registry_pb2_grpc
from looksmith.v1 import registry_pb2 as pb
from services.registry.collector import Collected
from services.registry.content import Content, measured, pieces_of
from services.registry.convert import (
    check_from_pb,
    collected_from_pb,
    event_from_pb,
    header_to_pb,
    move_from_pb,
    published_from_pb,
    upload_state_from_pb,
    watch_from_pb,
    yanked_from_pb,
)
from services.registry.fake_client import FakeRegistryClient
from services.registry.fsck import CheckedBrand, Fault, Summary
from services.registry.messages import AdapterEvent, AliasMove, Page, Published, PublishHeader, UploadState, Yanked
from services.registry.watch import BrandErased, Changed, Heartbeat, InSnapshot, Message, SnapshotEnd

__all__ = [
    "BrandErased",
    "Changed",
    "FakeRegistryClient",
    "Heartbeat",
    "InSnapshot",
    "Message",
    "RegistryClient",
    "SnapshotEnd",
    "measured",
]

#: Seconds that a call on records may take, and one that moves a file of up to 1 GiB.
RECORD_DEADLINE_S, FILE_DEADLINE_S = 10.0, 600.0


class RegistryClient:
    """A registry behind a channel, which stays the caller's.

    Every method raises what services.registry.errors says, as the class of its code. A caller acts on
    ``error.reason``: AdapterNotFound arrives as NotFound with the same reason.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._adapters = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
        self._brands = brand_pb2_grpc.BrandServiceStub(channel)
        self._admin = registry_pb2_grpc.RegistryAdminServiceStub(channel)

    async def put_brand(
        self, brand: Brand, *, expected_version: int | None = None, deadline_s: float = RECORD_DEADLINE_S
    ) -> Brand:
        request = brand_pb2.PutBrandRequest(brand=convert.brand_to_pb(brand), expected_version=expected_version)
        with _errors_as_raised():
            response = await self._brands.PutBrand(request, timeout=deadline_s)
        return convert.brand_from_pb(response.brand)

    async def get_brand(self, name: str, *, deadline_s: float = RECORD_DEADLINE_S) -> Brand:
        with _errors_as_raised():
            response = await self._brands.GetBrand(brand_pb2.GetBrandRequest(name=name), timeout=deadline_s)
        return convert.brand_from_pb(response.brand)

    async def list_brands(
        self, *, page_size: int = 0, page_token: str = "", deadline_s: float = RECORD_DEADLINE_S
    ) -> Page[Brand]:
        request = brand_pb2.ListBrandsRequest(page_size=page_size, page_token=page_token)
        with _errors_as_raised():
            response = await self._brands.ListBrands(request, timeout=deadline_s)
        return Page(tuple(map(convert.brand_from_pb, response.brands)), response.next_page_token)

    async def delete_brand(self, name: str, *, confirm_name: str, deadline_s: float = FILE_DEADLINE_S) -> int:
        """Erases a brand and returns the bytes of files that were deleted."""
        request = brand_pb2.DeleteBrandRequest(name=name, confirm_name=confirm_name)
        with _errors_as_raised():
            return (await self._brands.DeleteBrand(request, timeout=deadline_s)).freed_bytes

    async def collect_garbage(self, *, dry_run: bool = False, deadline_s: float = FILE_DEADLINE_S) -> Collected:
        with _errors_as_raised():
            request = pb.CollectGarbageRequest(dry_run=dry_run)
            return collected_from_pb(await self._admin.CollectGarbage(request, timeout=deadline_s))

    async def check_store(
        self, brand: str = "", *, read_files: bool = False, deadline_s: float = FILE_DEADLINE_S
    ) -> AsyncGenerator[Fault | CheckedBrand | Summary, None]:
        """Faults as they are found, each brand once it is done, and in the end what there is."""
        request = pb.CheckStoreRequest(brand=brand, read_files=read_files)
        with _errors_as_raised():
            async for message in self._admin.CheckStore(request, timeout=deadline_s):
                yield check_from_pb(message)

    async def publish(
        self,
        header: PublishHeader,
        content: Content,
        *,
        on_progress: Callable[[int], None] | None = None,
        deadline_s: float = FILE_DEADLINE_S,
    ) -> Published:
        """Sends a file, or pieces of one in order; ``on_progress`` gets the bytes sent so far.

        What breaks off is gone on with; with a request id, also what broke off in an earlier call.
        """
        answer = await upload(
            self._adapters,
            header_to_pb(header),
            partial(pieces_of, content),
            on_progress=on_progress or (lambda _sent: None),
            timeout_s=deadline_s,
        )
        return published_from_pb(answer)

    async def get_upload(self, brand: str, request_id: str, *, deadline_s: float = RECORD_DEADLINE_S) -> UploadState:
        """How much is held of an upload that broke off; ``publish`` asks for itself."""
        request = pb.GetUploadRequest(brand=brand, request_id=request_id)
        with _errors_as_raised():
            return upload_state_from_pb(await self._adapters.GetUpload(request, timeout=deadline_s))

    async def get_adapter(self, brand: str, adapter: str, *, deadline_s: float = RECORD_DEADLINE_S) -> Adapter:
        request = pb.GetAdapterRequest(brand=brand, adapter=adapter)
        with _errors_as_raised():
            response = await self._adapters.GetAdapter(request, timeout=deadline_s)
        return convert.adapter_from_pb(response.adapter)

    async def list_adapters(
        self, brand: str = "", *, page_size: int = 0, page_token: str = "", deadline_s: float = RECORD_DEADLINE_S
    ) -> Page[Adapter]:
        request = pb.ListAdaptersRequest(brand=brand, page_size=page_size, page_token=page_token)
        with _errors_as_raised():
            response = await self._adapters.ListAdapters(request, timeout=deadline_s)
        return Page(tuple(map(convert.adapter_from_pb, response.adapters)), response.next_page_token)

    async def list_versions(
        self,
        brand: str,
        adapter: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> Page[AdapterVersion]:
        request = pb.ListAdapterVersionsRequest(
            brand=brand, adapter=adapter, page_size=page_size, page_token=page_token
        )
        with _errors_as_raised():
            response = await self._adapters.ListAdapterVersions(request, timeout=deadline_s)
        return Page(tuple(map(convert.version_from_pb, response.versions)), response.next_page_token)

    async def resolve(self, ref: AdapterRef, *, min_seq: int = 0, deadline_s: float = RECORD_DEADLINE_S) -> Resolved:
        request = pb.ResolveAdapterRequest(ref=convert.ref_to_pb(ref), min_seq=min_seq)
        with _errors_as_raised():
            response = await self._adapters.ResolveAdapter(request, timeout=deadline_s)
        stale_since = convert.time_from_pb(response.stale_since) if response.HasField("stale_since") else None
        return Resolved(convert.version_from_pb(response.version), response.seq, stale_since)

    async def download(
        self, brand: str, digest: str, *, offset: int = 0, limit: int = 0, deadline_s: float = FILE_DEADLINE_S
    ) -> AsyncIterator[bytes]:
        """A file's bytes as they come. The caller checks the digest."""
        request = pb.DownloadAdapterRequest(brand=brand, digest=digest, offset=offset, limit=limit)
        call = self._adapters.DownloadAdapter(request, timeout=deadline_s)
        try:
            with _errors_as_raised():
                async for message in call:
                    yield message.chunk
        finally:
            call.cancel()  # does nothing to a call that has ended

    async def set_alias(
        self,
        brand: str,
        adapter: str,
        alias: str,
        version: int,
        *,
        expected_version: int | None = None,
        reason: str = "",
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> AliasMove:
        request = pb.SetAliasRequest(
            brand=brand,
            adapter=adapter,
            alias=alias,
            version=version,
            expected_version=expected_version,
            reason=reason,
        )
        with _errors_as_raised():
            return move_from_pb(await self._adapters.SetAlias(request, timeout=deadline_s))

    async def promote(
        self,
        ref: AdapterRef,
        *,
        expected_version: int | None = None,
        reason: str = "",
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> AliasMove:
        request = pb.PromoteAdapterRequest(ref=convert.ref_to_pb(ref), expected_version=expected_version, reason=reason)
        with _errors_as_raised():
            return move_from_pb(await self._adapters.PromoteAdapter(request, timeout=deadline_s))

    async def rollback(
        self,
        brand: str,
        adapter: str,
        *,
        alias: str = PRODUCTION,
        expected_version: int | None = None,
        reason: str = "",
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> AliasMove:
        request = pb.RollbackAdapterRequest(
            brand=brand, adapter=adapter, alias=alias, expected_version=expected_version, reason=reason
        )
        with _errors_as_raised():
            return move_from_pb(await self._adapters.RollbackAdapter(request, timeout=deadline_s))

    async def yank(
        self,
        brand: str,
        adapter: str,
        version: int,
        *,
        reason: str,
        replacement: int = 0,
        force: bool = False,
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> Yanked:
        request = pb.YankAdapterVersionRequest(
            brand=brand,
            adapter=adapter,
            version=version,
            replacement=replacement,
            force=force,
            reason=reason,
        )
        with _errors_as_raised():
            return yanked_from_pb(await self._adapters.YankAdapterVersion(request, timeout=deadline_s))

    async def watch(self, brand: str = "", *, cursor: str = "") -> AsyncGenerator[Message, None]:
        """Adapters as they are and as they change, until the connection is lost; go on with the last cursor then."""
        call = self._adapters.WatchAdapters(pb.WatchAdaptersRequest(brand=brand, cursor=cursor))
        try:
            with _errors_as_raised():
                async for message in call:
                    yield watch_from_pb(message)
        finally:
            call.cancel()  # does nothing to a call that has ended

    async def history(
        self,
        brand: str,
        adapter: str,
        *,
        at_time: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        deadline_s: float = RECORD_DEADLINE_S,
    ) -> Page[AdapterEvent]:
        request = pb.GetAdapterHistoryRequest(
            brand=brand,
            adapter=adapter,
            at_time=convert.time_to_pb(at_time),
            page_size=page_size,
            page_token=page_token,
        )
        with _errors_as_raised():
            response = await self._adapters.GetAdapterHistory(request, timeout=deadline_s)
        return Page(tuple(map(event_from_pb, response.events)), response.next_page_token)


@contextmanager
def _errors_as_raised() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None
