"""Publishing what must not be published: every file is refused by its code, and nothing of it is left or visible."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.lora import Code
from looksmith.v1 import registry_pb2 as pb
from services.registry.convert import header_to_pb
from tests.integration.bad_input.adapter_files import good_lora
from tests.integration.bad_input.system import PUBLISHED_AS, System, header_for
from tests.unit.looksmith.lora.hostile_files import HOSTILE, Hostile

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def refused(system: System, data: bytes, **fields: object) -> LooksmithError:
    with pytest.raises(LooksmithError) as caught:
        await system.publish(data, **fields)
    return caught.value


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_file_is_refused_with_what_why_and_what_to_do(system: System, hostile: Hostile) -> None:
    error = await refused(system, hostile.build(), family=hostile.family)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ADAPTER_REFUSED")
    first = error.violations[0]
    assert (first.field, first.reason) == ("chunk", hostile.code.name)
    assert hostile.code.why in first.description
    assert error.message.startswith(f"{hostile.code}: ")
    assert hostile.code.fix in error.message


async def test_an_empty_file_is_refused_by_its_size(system: System) -> None:
    error = await refused(system, b"")
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "E_SIZE")
    assert error.violations[0].field == "size_bytes"
    assert "must be 1 to" in error.message


@pytest.mark.parametrize("lie", [-1, 1])
async def test_a_file_of_another_size_than_announced_is_refused(system: System, lie: int) -> None:
    data = good_lora(9)
    error = await refused(system, data, size_bytes=len(data) + lie)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ADAPTER_REFUSED")
    assert error.violations[0].reason in {"E_SIZE", "E_OFFSETS"}


async def test_bytes_with_another_digest_than_announced_are_refused(system: System) -> None:
    data, other = good_lora(9), hashlib.sha256(b"another file").hexdigest()
    error = await refused(system, data, digest=other)
    assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")
    assert error.metadata["received"] == hashlib.sha256(data).hexdigest()
    assert "send the file again" in error.message


async def test_a_family_that_no_base_is_of_is_refused_by_field(system: System) -> None:
    error = await refused(system, good_lora(9), family="sd9")
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FAMILY_UNKNOWN")
    assert error.violations[0].field == "family"
    assert "known families: sd15, sd2, sdxl, studio, tiny" in error.message


async def test_a_file_for_another_family_than_declared_is_refused(system: System) -> None:
    error = await refused(system, good_lora(9), family="tiny")
    assert (error.code, error.violations[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "E_BASE")
    assert Code.E_BASE.fix in error.message


async def test_a_brand_without_a_record_gets_no_adapters(system: System) -> None:
    error = await refused(system, good_lora(9), brand="nobody")
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "BRAND_NOT_FOUND")
    assert error.metadata["brand"] == "nobody"
    assert "PutBrand" in error.message


async def test_a_request_id_is_not_reused_for_another_file(system: System) -> None:
    error = await refused(system, good_lora(9), request_id=PUBLISHED_AS)
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.metadata["version"] == "1"
    assert "another" in error.message
    again = await system.publish(good_lora(1), request_id=PUBLISHED_AS)
    assert again.version.version == 1


async def test_an_upload_that_its_publisher_gives_up_leaves_nothing(system: System) -> None:
    data = good_lora(9)
    call = system.adapters.PublishAdapter()
    await call.write(pb.PublishAdapterRequest(header=header_to_pb(header_for(data))))
    await call.write(pb.PublishAdapterRequest(chunk=data[: len(data) // 2]))
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_an_upload_of_bytes_that_are_no_message_is_refused(system: System) -> None:
    bare: Any = system.channels["registry"].stream_unary("/looksmith.v1.AdapterRegistryService/PublishAdapter")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bare(iter([b"\x0a\xff"]), timeout=10)
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NOT_A_MESSAGE")


async def test_an_upload_that_ends_in_the_middle_leaves_nothing(system: System) -> None:
    data = good_lora(9)
    with pytest.raises(LooksmithError) as caught:
        await system.registry.publish(header_for(data), [data[: len(data) // 2]])
    assert caught.value.violations[0].reason == "E_SIZE"
    assert Code.E_SIZE.fix in caught.value.message
