"""The gRPC edge of the registry: requests in, answers out, three lines a call. Decides nothing.

What a caller may do has been checked (services.chassis.permissions) but where an alias or a stream decides it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog

from looksmith import convert
from looksmith.nouns import PRODUCTION, Action, AdapterRef, check_alias, check_digest, check_name
from looksmith.v1 import brand_pb2, brand_pb2_grpc, registry_pb2_grpc
from looksmith.v1 import registry_pb2 as pb
from services.chassis import access
from services.registry.brands import Brands
from services.registry.catalog import Catalog
from services.registry.collector import Collector
from services.registry.convert import (
    by_field,
    check_to_pb,
    collected_to_pb,
    event_to_pb,
    published_to_pb,
    status_to_pb,
    upload_from_pb,
    upload_name_from_pb,
    upload_state_to_pb,
    watch_to_pb,
)
from services.registry.erasure import Eraser
from services.registry.errors import ConfirmationMissing
from services.registry.fsck import Checker
from services.registry.messages import check_reason, check_text
from services.registry.paging import check_page_size
from services.registry.publisher import Publisher
from services.registry.status import StatusTeller
from services.registry.uploads import Uploads
from services.registry.watch import Watches

Context = grpc.aio.ServicerContext[Any, Any]


class AdapterRegistryServicer(registry_pb2_grpc.AdapterRegistryServiceServicer):
    def __init__(
        self,
        *,
        catalog: Catalog,
        publisher: Publisher,
        uploads: Uploads,
        watches: Watches,
        to_move: Callable[[str], Action],
    ) -> None:
        """``to_move``: the action that it takes to move an alias."""
        self._catalog, self._publisher, self._uploads = catalog, publisher, uploads
        self._watches, self._to_move = watches, to_move

    async def PublishAdapter(
        self, request_iterator: AsyncIterator[pb.PublishAdapterRequest], context: Context
    ) -> pb.PublishAdapterResponse:
        header, chunks = await upload_from_pb(request_iterator)
        structlog.contextvars.bind_contextvars(brand=header.brand, adapter=header.adapter)
        access.check(Action.PUBLISH, header.brand)
        for alias in header.aliases:
            access.check(self._to_move(alias), header.brand)
        goes_live = access.caller().may(self._to_move(PRODUCTION), header.brand)
        published = await self._publisher.publish(header, chunks, first_goes_live=goes_live)
        return published_to_pb(published)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Context) -> pb.GetUploadResponse:
        with by_field():
            brand, request_id = upload_name_from_pb(request)
        return upload_state_to_pb(await self._uploads.state(brand, request_id))

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:
        with by_field():
            name = _names(request)
        adapter = await self._catalog.get(*name)
        return pb.GetAdapterResponse(adapter=convert.adapter_to_pb(adapter))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        with by_field():
            brand = check_name("brand", request.brand) if request.brand else ""
            page = await self._catalog.list_adapters(
                brand, check_page_size(request.page_size), request.page_token, shown=access.may_read
            )
        return pb.ListAdaptersResponse(adapters=map(convert.adapter_to_pb, page.items), next_page_token=page.next_token)

    async def ListAdapterVersions(
        self, request: pb.ListAdapterVersionsRequest, context: Context
    ) -> pb.ListAdapterVersionsResponse:
        with by_field():
            size, name = check_page_size(request.page_size), _names(request)
            page = await self._catalog.list_versions(*name, size, request.page_token)
        return pb.ListAdapterVersionsResponse(
            versions=map(convert.version_to_pb, page.items), next_page_token=page.next_token
        )

    async def ResolveAdapter(self, request: pb.ResolveAdapterRequest, context: Context) -> pb.ResolveAdapterResponse:
        with by_field():
            ref = convert.ref_from_pb(request.ref)
        resolved = await self._catalog.resolve(ref, request.min_seq)
        return pb.ResolveAdapterResponse(
            version=convert.version_to_pb(resolved.version),
            seq=resolved.seq,
            stale_since=convert.time_to_pb(resolved.stale_since),
        )

    async def DownloadAdapter(
        self, request: pb.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[pb.DownloadAdapterResponse]:
        with by_field():
            brand, digest = check_name("brand", request.brand), check_digest("digest", request.digest)
        async for chunk in await self._catalog.open(brand, digest, offset=request.offset, limit=request.limit):
            yield pb.DownloadAdapterResponse(chunk=chunk)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        with by_field():
            alias, target = check_alias("alias", request.alias), AdapterRef(*_names(request), request.version)
            reason = check_text("reason", request.reason)
        access.check(self._to_move(alias), target.brand)
        move = await self._catalog.set_alias(alias, target, expected_version=_expected(request), reason=reason)
        return pb.SetAliasResponse(
            alias=convert.alias_to_pb(move.alias), previous_version=move.previous_version, seq=move.seq
        )

    async def PromoteAdapter(self, request: pb.PromoteAdapterRequest, context: Context) -> pb.PromoteAdapterResponse:
        with by_field():
            ref, reason = convert.ref_from_pb(request.ref), check_text("reason", request.reason)
        access.check(self._to_move(PRODUCTION), ref.brand)
        move = await self._catalog.promote(ref, expected_version=_expected(request), reason=reason)
        return pb.PromoteAdapterResponse(
            alias=convert.alias_to_pb(move.alias), previous_version=move.previous_version, seq=move.seq
        )

    async def RollbackAdapter(self, request: pb.RollbackAdapterRequest, context: Context) -> pb.RollbackAdapterResponse:
        with by_field():
            alias, reason = check_alias("alias", request.alias or PRODUCTION), check_text("reason", request.reason)
            name = _names(request)
        access.check(self._to_move(alias), request.brand)
        move = await self._catalog.rollback(*name, alias, expected_version=_expected(request), reason=reason)
        return pb.RollbackAdapterResponse(
            alias=convert.alias_to_pb(move.alias), previous_version=move.previous_version, seq=move.seq
        )

    async def YankAdapterVersion(
        self, request: pb.YankAdapterVersionRequest, context: Context
    ) -> pb.YankAdapterVersionResponse:
        with by_field():
            target, reason = AdapterRef(*_names(request), request.version), check_reason(request.reason)
        yanked = await self._catalog.yank(target, reason=reason, replacement=request.replacement, force=request.force)
        return pb.YankAdapterVersionResponse(version=convert.version_to_pb(yanked.version), seq=yanked.seq)

    async def GetAdapterHistory(
        self, request: pb.GetAdapterHistoryRequest, context: Context
    ) -> pb.GetAdapterHistoryResponse:
        with by_field():
            size = check_page_size(request.page_size)
            at_time = convert.time_from_pb(request.at_time, "at_time") if request.HasField("at_time") else None
            name = _names(request)
            page = await self._catalog.history(*name, size, request.page_token, at_time=at_time)
        return pb.GetAdapterHistoryResponse(events=map(event_to_pb, page.items), next_page_token=page.next_token)

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        with by_field():
            brand = check_name("brand", request.brand) if request.brand else ""
        who = access.caller()

        def shown(name: str) -> bool:
            return name == brand if brand else who.may(Action.READ, name)

        async for message in self._watches.messages(request.cursor, shown):
            yield watch_to_pb(message)


class BrandServicer(brand_pb2_grpc.BrandServiceServicer):
    def __init__(self, *, brands: Brands, eraser: Eraser) -> None:
        self._brands, self._eraser = brands, eraser

    async def PutBrand(self, request: brand_pb2.PutBrandRequest, context: Context) -> brand_pb2.PutBrandResponse:
        with by_field():
            brand = convert.brand_from_pb(request.brand)
        stored = await self._brands.put(brand, _expected(request))
        return brand_pb2.PutBrandResponse(brand=convert.brand_to_pb(stored))

    async def GetBrand(self, request: brand_pb2.GetBrandRequest, context: Context) -> brand_pb2.GetBrandResponse:
        with by_field():
            name = check_name("name", request.name)
        return brand_pb2.GetBrandResponse(brand=convert.brand_to_pb(await self._brands.get(name)))

    async def ListBrands(self, request: brand_pb2.ListBrandsRequest, context: Context) -> brand_pb2.ListBrandsResponse:
        with by_field():
            size = check_page_size(request.page_size)
            page = await self._brands.list_brands(size, request.page_token, shown=access.may_read)
        return brand_pb2.ListBrandsResponse(
            brands=map(convert.brand_to_pb, page.items), next_page_token=page.next_token
        )

    async def DeleteBrand(
        self, request: brand_pb2.DeleteBrandRequest, context: Context
    ) -> brand_pb2.DeleteBrandResponse:
        with by_field():
            name = check_name("name", request.name)
        if request.confirm_name != name:
            raise ConfirmationMissing(name)
        return brand_pb2.DeleteBrandResponse(freed_bytes=await self._eraser.erase(name))


class RegistryAdminServicer(registry_pb2_grpc.RegistryAdminServiceServicer):
    def __init__(self, *, collector: Collector, checker: Checker, status: StatusTeller) -> None:
        self._collector, self._checker, self._status = collector, checker, status

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        return collected_to_pb(await self._collector.collect(dry_run=request.dry_run))

    async def CheckStore(self, request: pb.CheckStoreRequest, context: Context) -> AsyncIterator[pb.CheckStoreResponse]:
        with by_field():
            brand = check_name("brand", request.brand) if request.brand else ""
        async for message in self._checker.check(brand, read_files=request.read_files):
            yield check_to_pb(message)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return status_to_pb(await self._status.status())


def _names(
    request: pb.GetAdapterRequest
    | pb.ListAdapterVersionsRequest
    | pb.SetAliasRequest
    | pb.RollbackAdapterRequest
    | pb.YankAdapterVersionRequest
    | pb.GetAdapterHistoryRequest,
) -> tuple[str, str]:
    return check_name("brand", request.brand), check_name("adapter", request.adapter)


def _expected(
    request: pb.SetAliasRequest | pb.PromoteAdapterRequest | pb.RollbackAdapterRequest | brand_pb2.PutBrandRequest,
) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
