"""The registry's requests and answers to protobuf and back, for its servicer and its client. Knows nothing about calls.

Malformed fields become InvalidField here.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from looksmith import __version__, convert
from looksmith.errors import InvalidField
from looksmith.nouns import Malformed, check_name
from looksmith.v1 import registry_pb2 as pb
from services.registry import fsck, watch
from services.registry.collector import Collected
from services.registry.content import PIECE_BYTES
from services.registry.errors import ChunkCorrupt
from services.registry.messages import (
    AdapterEvent,
    AliasMove,
    EventKind,
    Published,
    PublishHeader,
    UploadState,
    Yanked,
    check_request_id,
)
from services.registry.status import Status

_KINDS = {
    EventKind.PUBLISHED: pb.ADAPTER_EVENT_KIND_PUBLISHED,
    EventKind.ALIAS_SET: pb.ADAPTER_EVENT_KIND_ALIAS_SET,
    EventKind.YANKED: pb.ADAPTER_EVENT_KIND_YANKED,
    EventKind.ERASED: pb.ADAPTER_EVENT_KIND_ERASED,
}
_KINDS_FROM_PB = {number: kind for kind, number in _KINDS.items()}
_FAULTS = {kind: pb.StoreFaultKind.Value(f"STORE_FAULT_KIND_{kind.name}") for kind in fsck.FaultKind}
_FAULTS_FROM_PB = {number: kind for kind, number in _FAULTS.items()}


@contextmanager
def by_field() -> Iterator[None]:
    """Turns what looksmith.nouns refuses into an answer that names the field."""
    try:
        yield
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None


async def upload_from_pb(
    messages: AsyncIterator[pb.PublishAdapterRequest],
) -> tuple[PublishHeader, AsyncIterator[bytes]]:
    """The header of an upload, and its chunks as they come.

    Raises:
        InvalidField: the header is not first or malformed; later, a message is no chunk or too large a one.
        ChunkCorrupt: later, a chunk is not what its sender took the CRC-32 of.
    """
    first = await anext(messages, pb.PublishAdapterRequest())
    if first.WhichOneof("part") != "header":
        raise InvalidField("header", "must be the first message of an upload")
    with by_field():
        return header_from_pb(first.header), _chunks(messages, first.header.offset)


async def _chunks(messages: AsyncIterator[pb.PublishAdapterRequest], offset: int) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidField("chunk", "is what every message after the first must hold")
        if len(message.chunk) > PIECE_BYTES:
            raise InvalidField("chunk", f"has {len(message.chunk)} bytes; at most {PIECE_BYTES} may come at once")
        if message.HasField("crc32") and message.crc32 != zlib.crc32(message.chunk):
            raise ChunkCorrupt(offset, len(message.chunk))
        offset += len(message.chunk)
        yield message.chunk


def upload_name_from_pb(message: pb.GetUploadRequest) -> tuple[str, str]:
    """Brand and request id."""
    if not message.request_id:
        raise Malformed("request_id", "is required")
    return check_name("brand", message.brand), check_request_id(message.request_id)


def upload_state_from_pb(message: pb.GetUploadResponse) -> UploadState:
    expires = convert.time_from_pb(message.expire_time) if message.HasField("expire_time") else None
    return UploadState(message.received_bytes, expires)


def upload_state_to_pb(state: UploadState) -> pb.GetUploadResponse:
    return pb.GetUploadResponse(received_bytes=state.received_bytes, expire_time=convert.time_to_pb(state.expire_time))


def header_from_pb(message: pb.PublishHeader) -> PublishHeader:
    return PublishHeader(
        brand=message.brand,
        adapter=message.adapter,
        family=message.family,
        digest=message.digest,
        size_bytes=message.size_bytes,
        base_digest=message.base_digest,
        request_id=message.request_id,
        aliases=tuple(message.aliases),
        publisher=message.publisher,
        note=message.note,
        labels=dict(message.labels),
        lineage=convert.lineage_from_pb(message.lineage),
        offset=message.offset,
    )


def header_to_pb(header: PublishHeader) -> pb.PublishHeader:
    return pb.PublishHeader(
        brand=header.brand,
        adapter=header.adapter,
        family=header.family,
        digest=header.digest,
        size_bytes=header.size_bytes,
        base_digest=header.base_digest,
        request_id=header.request_id,
        aliases=header.aliases,
        publisher=header.publisher,
        note=header.note,
        labels=header.labels,
        lineage=convert.lineage_to_pb(header.lineage),
        offset=header.offset,
    )


def published_from_pb(message: pb.PublishAdapterResponse) -> Published:
    return Published(convert.version_from_pb(message.version), message.already_existed, tuple(message.aliases))


def published_to_pb(published: Published) -> pb.PublishAdapterResponse:
    return pb.PublishAdapterResponse(
        version=convert.version_to_pb(published.version),
        already_existed=published.already_existed,
        aliases=published.aliases,
    )


def move_from_pb(message: pb.SetAliasResponse | pb.PromoteAdapterResponse | pb.RollbackAdapterResponse) -> AliasMove:
    return AliasMove(convert.alias_from_pb(message.alias), message.previous_version, message.seq)


def yanked_from_pb(message: pb.YankAdapterVersionResponse) -> Yanked:
    return Yanked(convert.version_from_pb(message.version), message.seq)


def event_from_pb(message: pb.AdapterEvent) -> AdapterEvent:
    return AdapterEvent(
        seq=message.seq,
        time=convert.time_from_pb(message.time),
        kind=_KINDS_FROM_PB[message.kind],
        version=message.version,
        aliases=tuple(map(convert.alias_from_pb, message.aliases)),
        alias=message.alias,
        previous_version=message.previous_version,
        actor=message.actor,
        reason=message.reason,
    )


def event_to_pb(event: AdapterEvent) -> pb.AdapterEvent:
    return pb.AdapterEvent(
        seq=event.seq,
        time=convert.time_to_pb(event.time),
        kind=_KINDS[event.kind],
        version=event.version,
        aliases=map(convert.alias_to_pb, event.aliases),
        alias=event.alias,
        previous_version=event.previous_version,
        actor=event.actor,
        reason=event.reason,
    )


def watch_to_pb(message: watch.Message) -> pb.WatchAdaptersResponse:
    match message:
        case watch.InSnapshot(adapter, cursor):
            return pb.WatchAdaptersResponse(snapshot=convert.adapter_to_pb(adapter), cursor=cursor)
        case watch.SnapshotEnd(adapters, cursor):
            return pb.WatchAdaptersResponse(snapshot_end=pb.SnapshotEnd(adapters=adapters), cursor=cursor)
        case watch.Changed(adapter, cursor):
            return pb.WatchAdaptersResponse(changed=convert.adapter_to_pb(adapter), cursor=cursor)
        case watch.BrandErased(brand, digests, cursor):
            return pb.WatchAdaptersResponse(erased=pb.BrandErased(brand=brand, digests=digests), cursor=cursor)
        case watch.Heartbeat(stale_since, cursor):
            return pb.WatchAdaptersResponse(
                heartbeat=pb.WatchHeartbeat(stale_since=convert.time_to_pb(stale_since)), cursor=cursor
            )


def watch_from_pb(message: pb.WatchAdaptersResponse) -> watch.Message:
    match message.WhichOneof("message"):
        case "snapshot":
            return watch.InSnapshot(convert.adapter_from_pb(message.snapshot), message.cursor)
        case "snapshot_end":
            return watch.SnapshotEnd(message.snapshot_end.adapters, message.cursor)
        case "changed":
            return watch.Changed(convert.adapter_from_pb(message.changed), message.cursor)
        case "erased":
            return watch.BrandErased(message.erased.brand, tuple(message.erased.digests), message.cursor)
    beat = message.heartbeat
    stale_since = convert.time_from_pb(beat.stale_since, "stale_since") if beat.HasField("stale_since") else None
    return watch.Heartbeat(stale_since, message.cursor)


def collected_to_pb(collected: Collected) -> pb.CollectGarbageResponse:
    return pb.CollectGarbageResponse(
        deleted_objects=collected.deleted_objects,
        deleted_bytes=collected.deleted_bytes,
        young_objects=collected.young_objects,
        young_bytes=collected.young_bytes,
    )


def collected_from_pb(message: pb.CollectGarbageResponse) -> Collected:
    return Collected(message.deleted_objects, message.deleted_bytes, message.young_objects, message.young_bytes)


def status_to_pb(status: Status) -> pb.GetStatusResponse:
    message = pb.GetStatusResponse(
        name=status.name,
        version=__version__,
        time=convert.time_to_pb(status.time),
        store=status.store,
        store_works=not status.problem,
        store_problem=status.problem,
        store_breaches=status.breaches,
    )
    message.store_time.FromNanoseconds(round(status.store_s * 1e9))
    return message


def check_to_pb(message: fsck.Fault | fsck.CheckedBrand | fsck.Summary) -> pb.CheckStoreResponse:
    match message:
        case fsck.Fault(kind, key, what):
            return pb.CheckStoreResponse(fault=pb.StoreFault(kind=_FAULTS[kind], key=key, description=what))
        case fsck.CheckedBrand(name):
            return pb.CheckStoreResponse(checked_brand=name)
        case fsck.Summary():
            return pb.CheckStoreResponse(summary=pb.StoreSummary(**asdict(message)))


def check_from_pb(message: pb.CheckStoreResponse) -> fsck.Fault | fsck.CheckedBrand | fsck.Summary:
    match message.WhichOneof("message"):
        case "fault":
            return fsck.Fault(_FAULTS_FROM_PB[message.fault.kind], message.fault.key, message.fault.description)
        case "checked_brand":
            return fsck.CheckedBrand(message.checked_brand)
    fields = {name: getattr(message.summary, name) for name in fsck.Summary.__dataclass_fields__}
    return fsck.Summary(**fields)
