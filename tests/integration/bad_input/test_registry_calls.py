"""Calls of the registry with values that no honest caller sends: refused by field, and nothing is written."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from looksmith.errors import error_from_rpc
from looksmith.v1 import brand_pb2
from looksmith.v1 import registry_pb2 as pb
from looksmith.v1.adapter_pb2 import AdapterRef
from tests.integration.bad_input.system import System

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NEVER = Timestamp(seconds=1 << 62)
ABSURD = (1 << 32) - 1


@dataclass(frozen=True)
class Case:
    method: str
    request: Any
    code: grpc.StatusCode
    reason: str
    field: str = ""


def invalid(field: str, method: str, request: object) -> Case:
    return Case(method, request, INVALID, "INVALID_ARGUMENT", field)


def missing(reason: str, method: str, request: object) -> Case:
    return Case(method, request, NOT_FOUND, reason)


def put(**fields: object) -> brand_pb2.PutBrandRequest:
    brand = brand_pb2.Brand(**{"name": "bad", **fields})  # type: ignore[arg-type]  # fields by name
    return brand_pb2.PutBrandRequest(brand=brand)


def look(**pick: object) -> AdapterRef:
    return AdapterRef(**{"brand": "acme", "adapter": "look", **pick})  # type: ignore[arg-type]  # fields by name


LOOK: dict[str, Any] = {"brand": "acme", "adapter": "look"}
LIMITS = brand_pb2.BrandLimits
CASES = {
    "unknown brand": missing("BRAND_NOT_FOUND", "GetBrand", brand_pb2.GetBrandRequest(name="nobody")),
    "unknown adapter": missing("ADAPTER_NOT_FOUND", "ResolveAdapter", pb.ResolveAdapterRequest(ref=look(adapter="no"))),
    "unknown alias": missing("ALIAS_NOT_FOUND", "ResolveAdapter", pb.ResolveAdapterRequest(ref=look(alias="staging"))),
    "unknown version": missing("VERSION_NOT_FOUND", "ResolveAdapter", pb.ResolveAdapterRequest(ref=look(version=3))),
    "unknown digest": missing(
        "DIGEST_NOT_FOUND", "ResolveAdapter", pb.ResolveAdapterRequest(ref=look(digest="0" * 64))
    ),
    "alias for no version": missing("VERSION_NOT_FOUND", "SetAlias", pb.SetAliasRequest(**LOOK, alias="a", version=3)),
    "promotion of no version": missing(
        "VERSION_NOT_FOUND", "PromoteAdapter", pb.PromoteAdapterRequest(ref=look(version=ABSURD))
    ),
    "rollback of no alias": missing("ALIAS_NOT_FOUND", "RollbackAdapter", pb.RollbackAdapterRequest(**LOOK, alias="a")),
    "rollback to nothing": Case(
        "RollbackAdapter",
        pb.RollbackAdapterRequest(**LOOK),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOTHING_TO_ROLL_BACK",
    ),
    "yank of no version": missing(
        "VERSION_NOT_FOUND", "YankAdapterVersion", pb.YankAdapterVersionRequest(**LOOK, version=ABSURD, reason="r")
    ),
    "yank of what is in production": Case(
        "YankAdapterVersion",
        pb.YankAdapterVersionRequest(**LOOK, version=1, reason="r"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "VERSION_ALIASED",
    ),
    "yank without a reason": invalid(
        "reason", "YankAdapterVersion", pb.YankAdapterVersionRequest(**LOOK, version=1, force=True)
    ),
    "replacement by itself": invalid(
        "replacement", "YankAdapterVersion", pb.YankAdapterVersionRequest(**LOOK, version=1, replacement=1, reason="r")
    ),
    "replacement by nothing": Case(
        "YankAdapterVersion",
        pb.YankAdapterVersionRequest(**LOOK, version=1, replacement=ABSURD, reason="r"),
        NOT_FOUND,
        "VERSION_NOT_FOUND",
        "replacement",
    ),
    "alias that has moved": Case(
        "PromoteAdapter",
        pb.PromoteAdapterRequest(ref=look(version=2), expected_version=2),
        grpc.StatusCode.ABORTED,
        "ALIAS_MOVED",
    ),
    "brand that has changed": Case(
        "PutBrand",
        brand_pb2.PutBrandRequest(brand=brand_pb2.Brand(name="acme"), expected_version=9),
        grpc.StatusCode.ABORTED,
        "BRAND_VERSION_MISMATCH",
    ),
    "sequence number to come": Case(
        "ResolveAdapter",
        pb.ResolveAdapterRequest(ref=look(), min_seq=(1 << 64) - 1),
        grpc.StatusCode.FAILED_PRECONDITION,
        "SEQ_NOT_REACHED",
    ),
    "limit that is NaN": invalid(
        "limits.max_gpu_seconds_per_minute", "PutBrand", put(limits=LIMITS(max_gpu_seconds_per_minute=math.nan))
    ),
    "limit that is infinite": invalid(
        "limits.max_gpu_seconds_per_minute", "PutBrand", put(limits=LIMITS(max_gpu_seconds_per_minute=math.inf))
    ),
    "limit below zero": invalid(
        "limits.max_gpu_seconds_per_minute", "PutBrand", put(limits=LIMITS(max_gpu_seconds_per_minute=-1))
    ),
    "share that is NaN": invalid("fair_share_weight", "PutBrand", put(fair_share_weight=math.nan)),
    "name of a megabyte": invalid("display_name", "PutBrand", put(display_name="x" * (1 << 20))),
    "template of a megabyte": invalid("prompt_template", "PutBrand", put(prompt_template="{prompt}" + "x" * (1 << 20))),
    "negative prompt of a megabyte": invalid("negative_prompt", "PutBrand", put(negative_prompt="x" * (1 << 20))),
    "recipe that is a path": invalid("recipe", "PutBrand", put(recipe="../studio")),
    "time that never comes": invalid(
        "at_time", "GetAdapterHistory", pb.GetAdapterHistoryRequest(**LOOK, at_time=NEVER)
    ),
    "token without end": invalid(
        "page_token",
        "ListAdapters",
        pb.ListAdaptersRequest(page_token=base64.urlsafe_b64encode(b"[" * 90_000).decode()),
    ),
    "update at no time": invalid("update_time", "PutBrand", put(update_time=NEVER)),
    "page of all there is": invalid("page_size", "ListBrands", brand_pb2.ListBrandsRequest(page_size=ABSURD)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_bad_call_is_refused_by_reason_and_field(system: System, case: Case) -> None:
    stub = system.brands if hasattr(system.brands, case.method) else system.adapters
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, case.method)(case.request, timeout=10)
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (case.code, case.reason), error.message
    assert [violation.field for violation in error.violations] == ([case.field] if case.field else [])


async def downloaded(system: System, **fields: object) -> bytes:
    digest = system.published[0][3]
    request = pb.DownloadAdapterRequest(**{"brand": "acme", "digest": digest, **fields})  # type: ignore[arg-type]  # by name
    return b"".join([message.chunk async for message in system.adapters.DownloadAdapter(request, timeout=10)])


@pytest.mark.parametrize("offset", [0, 5])
async def test_a_download_may_ask_for_more_than_there_is(system: System, offset: int) -> None:
    whole = await downloaded(system)
    assert await downloaded(system, offset=offset, limit=(1 << 64) - 1) == whole[offset:]


@pytest.mark.parametrize("offset", [1 << 20, (1 << 64) - 1])
async def test_a_download_from_beyond_the_end_is_out_of_range(system: System, offset: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await downloaded(system, offset=offset)
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND_END")


async def test_one_brand_s_files_are_not_another_s(system: System) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await downloaded(system, brand="frugal")
    assert error_from_rpc(caught.value).reason == "DIGEST_NOT_FOUND"
