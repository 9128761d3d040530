"""Upkeep's requests from protobuf, and usage to it. What is malformed is refused by field."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from looksmith import convert
from looksmith.errors import InvalidField
from looksmith.nouns import AdapterRef, Malformed, check_digest
from looksmith.v1 import fleet_pb2 as pb
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


def since_from_pb(message: pb.GetUsageRequest) -> datetime | None:
    if not message.HasField("since"):
        return None
    try:
        return convert.time_from_pb(message.since, "since")
    except Malformed as error:
        raise InvalidField(error.field, error.description) from None


def usage_to_pb(usage: Iterable[BrandUsage]) -> pb.GetUsageResponse:
    brands = [pb.BrandUsage(brand=each.brand, images=each.images, gpu_seconds=each.gpu_seconds) for each in usage]
    return pb.GetUsageResponse(usage=brands)
