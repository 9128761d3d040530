"""Upkeep's requests from protobuf, and usage to it. What is malformed is refused by field."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from looksmith import convert
from looksmith.errors import InvalidField
from looksmith.nouns import MAX_TEXT_CHARACTERS, AdapterRef, Malformed, check_digest
from looksmith.v1 import fleet_pb2 as pb
from services.chassis.painting_pb import duration_to_pb, tier_to_pb
from services.router.request_records import RequestRecord
from services.router.usage import BrandUsage


def warmed_from_pb(message: pb.WarmAdapterRequest) -> AdapterRef:
    try:
        return convert.ref_from_pb(message.ref)
    except Malformed as error:
        raise InvalidField(f"ref.{error.field}", error.description) from None


def evicted_from_pb(message: pb.EvictAdapterRequest) -> str:
    try:
        return check_digest("digest", message.digest)
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None


def reason_from_pb(message: pb.DrainWorkerRequest | pb.ResetWorkerRequest) -> str:
    """Goes to the worker and into logs."""
    if len(message.reason) > MAX_TEXT_CHARACTERS:
        raise InvalidField("reason", f"has over {MAX_TEXT_CHARACTERS} characters")
    return message.reason


def since_from_pb(message: pb.GetUsageRequest) -> datetime | None:
    if not message.HasField("since"):
        return None
    try:
        return convert.time_from_pb(message.since, "since")
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None


def usage_to_pb(usage: Iterable[BrandUsage], records: Iterable[RequestRecord]) -> pb.GetUsageResponse:
    brands = [pb.BrandUsage(brand=each.brand, images=each.images, gpu_seconds=each.gpu_seconds) for each in usage]
    return pb.GetUsageResponse(usage=brands, records=map(_record_to_pb, records))


def _record_to_pb(record: RequestRecord) -> pb.RequestRecord:
    return pb.RequestRecord(
        ended=convert.time_to_pb(record.ended),
        brand=record.brand,
        request_id=record.request_id,
        status=record.status,
        reason=record.reason,
        images=record.images,
        images_blocked=record.images_blocked,
        gpu_seconds=record.gpu_seconds,
        workers=record.workers,
        duration=duration_to_pb(record.seconds),
        tier=tier_to_pb(record.tier),
    )
