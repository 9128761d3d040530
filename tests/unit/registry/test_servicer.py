"""What the edge refuses before the registry is asked, seen through a real stub."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.nouns import AdapterRef, Lineage
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc, registry_pb2_grpc
from looksmith.v1 import registry_pb2 as pb
from services.chassis.server import grpc_server
from services.registry.compose import apis
from services.registry.convert import header_to_pb
from services.registry.object_store import InMemoryObjectStore
from tests.unit.registry.parts import a_core_with_brand, header_for, lora_file
from tests.unit.registry.test_client import SETTINGS

DATA = lora_file()


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    core = await a_core_with_brand(InMemoryObjectStore())
    async with (
        grpc_server(SETTINGS, apis(core)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield channel


async def refused(call: grpc.aio.Call) -> LooksmithError:
    """The error that a call of any kind ends with."""
    error = grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
    return error_from_rpc(error)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetUpload", pb.GetUploadRequest(request_id="r"), "brand"),
        ("GetUpload", pb.GetUploadRequest(brand="b"), "request_id"),
        ("GetUpload", pb.GetUploadRequest(brand="b", request_id="x" * 129), "request_id"),
        ("GetAdapter", pb.GetAdapterRequest(adapter="a"), "brand"),
        ("GetAdapter", pb.GetAdapterRequest(brand="b", adapter="../x"), "adapter"),
        ("ListAdapters", pb.ListAdaptersRequest(page_size=1001), "page_size"),
        ("ListAdapters", pb.ListAdaptersRequest(brand="No"), "brand"),
        ("ListAdapterVersions", pb.ListAdapterVersionsRequest(brand="b"), "adapter"),
        ("ResolveAdapter", pb.ResolveAdapterRequest(), "brand"),
        (
            "ResolveAdapter",
            pb.ResolveAdapterRequest(ref=adapter_pb2.AdapterRef(brand="b", adapter="a", version=0)),
            "version",
        ),
        (
            "ResolveAdapter",
            pb.ResolveAdapterRequest(ref=adapter_pb2.AdapterRef(brand="b", adapter="a", digest="abc")),
            "digest",
        ),
        ("DownloadAdapter", pb.DownloadAdapterRequest(brand="b", digest="ABC"), "digest"),
        ("SetAlias", pb.SetAliasRequest(brand="b", adapter="a", alias="12", version=1), "alias"),
        ("SetAlias", pb.SetAliasRequest(brand="b", adapter="a", alias="x"), "version"),
        ("SetAlias", pb.SetAliasRequest(brand="b", adapter="a", alias="x", version=1, reason="y" * 2001), "reason"),
        ("PromoteAdapter", pb.PromoteAdapterRequest(), "brand"),
        ("RollbackAdapter", pb.RollbackAdapterRequest(brand="b", adapter="a", alias="A"), "alias"),
        ("YankAdapterVersion", pb.YankAdapterVersionRequest(brand="b", version=1, reason="r"), "adapter"),
        ("YankAdapterVersion", pb.YankAdapterVersionRequest(brand="b", adapter="a", reason="r"), "version"),
        ("YankAdapterVersion", pb.YankAdapterVersionRequest(brand="b", adapter="a", version=1), "reason"),
        ("GetAdapterHistory", pb.GetAdapterHistoryRequest(brand="b", adapter="a", page_size=9999), "page_size"),
    ],
)
async def test_a_bad_field_is_named(channel: grpc.aio.Channel, method: str, request_: object, field: str) -> None:
    stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
    error = await refused(getattr(stub, method)(request_))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    ("brand", "field"),
    [
        (brand_pb2.Brand(), "name"),
        (brand_pb2.Brand(name="b", prompt_template="no place"), "prompt_template"),
        (brand_pb2.Brand(name="b", fair_share_weight=-1), "fair_share_weight"),
        (brand_pb2.Brand(name="b", default_width=768), "default_height"),
        (
            brand_pb2.Brand(name="b", default_adapters=[adapter_pb2.AdapterUse(adapter="a", weight=9)]),
            "default_adapters[0].weight",
        ),
    ],
)
async def test_a_bad_brand_is_refused_by_field(channel: grpc.aio.Channel, brand: brand_pb2.Brand, field: str) -> None:
    error = await refused(brand_pb2_grpc.BrandServiceStub(channel).PutBrand(brand_pb2.PutBrandRequest(brand=brand)))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def header(**changes: object) -> pb.PublishAdapterRequest:
    message = header_to_pb(header_for(DATA))
    for name in changes:
        message.ClearField(name)  # type: ignore[arg-type]  # a test names its fields
    message.MergeFrom(pb.PublishHeader(**changes))  # type: ignore[arg-type]  # as above
    return pb.PublishAdapterRequest(header=message)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"brand": ""}, "brand"),
        ({"adapter": "Style"}, "adapter"),
        ({"family": ""}, "family"),
        ({"digest": "abc"}, "digest"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"base_digest": "abc"}, "base_digest"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"offset": 5}, "offset"),
        ({"aliases": ["fine", "7"]}, "aliases[1]"),
        ({"note": "x" * 2001}, "note"),
        ({"publisher": "x" * 257}, "publisher"),
        ({"lineage": {"trigger_words": map(str, range(33))}}, "lineage.trigger_words"),
        ({"lineage": {"trigger_words": ["ink", "x" * 129]}}, "lineage.trigger_words[1]"),
        ({"lineage": {"trigger_words": [" "]}}, "lineage.trigger_words[0]"),
        ({"lineage": {"trigger_words": ["a\nb"]}}, "lineage.trigger_words[0]"),
        ({"lineage": {"clip_skip": 13}}, "lineage.clip_skip"),
        ({"lineage": {"prediction_type": "velocity"}}, "lineage.prediction_type"),
        ({"lineage": {"trained_from": "x" * 257}}, "lineage.trained_from"),
        ({"lineage": {"trained_from": "\x1b[31m"}}, "lineage.trained_from"),
    ],
)
async def test_a_bad_header_is_refused_by_field(
    channel: grpc.aio.Channel, changes: dict[str, object], field: str
) -> None:
    stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
    error = await refused(stub.PublishAdapter(iter([header(**changes)])))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_the_lineage_that_the_command_is_told_is_stored_and_shown(tmp_path: Path) -> None:
    core = await a_core_with_brand(InMemoryObjectStore())
    (tmp_path / "look").write_bytes(DATA)
    said = ("--trigger-word", "ink", "--trigger-word", "flat", "--clip-skip", "1", "--trained-from", "a base")
    async with grpc_server(SETTINGS, apis(core)) as server:
        command = ["publish", "acme/style", str(tmp_path / "look"), "--family", "tiny", "--registry", server.address]
        argv = (str(Path(sys.executable).with_name("looksmith")), *command, *said)
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        told, _ = await process.communicate()
    assert process.returncode == 0
    assert "  trigger words ink, flat; clip skip 1; trained from a base\n" in told.decode()
    stored = (await core.catalog.resolve(AdapterRef("acme", "style"))).version
    assert stored.manifest.lineage == Lineage(("ink", "flat"), 1, "", "a base")


@pytest.mark.parametrize("labels", [{str(i): "" for i in range(33)}, {"k" * 129: ""}, {"k": "v" * 129}])
async def test_too_many_or_too_long_labels_are_refused(channel: grpc.aio.Channel, labels: dict[str, str]) -> None:
    message = header()
    message.header.labels.update(labels)
    stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
    error = await refused(stub.PublishAdapter(iter([message])))
    assert error.violations[0].field.startswith("labels")


def chunk(data: bytes) -> pb.PublishAdapterRequest:
    return pb.PublishAdapterRequest(chunk=data)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "header"),
        ([pb.PublishAdapterRequest()], "header"),
        ([chunk(DATA)], "header"),
        ([header(), header()], "chunk"),
        ([header(), pb.PublishAdapterRequest()], "chunk"),
        ([header(), chunk(bytes((1 << 20) + 1))], "chunk"),
    ],
)
async def test_messages_out_of_order_or_too_large_are_refused(
    channel: grpc.aio.Channel, messages: list[pb.PublishAdapterRequest], field: str
) -> None:
    stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
    error = await refused(stub.PublishAdapter(iter(messages)))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_chunk_that_is_not_what_its_checksum_tells_of_is_refused_with_its_place(
    channel: grpc.aio.Channel,
) -> None:
    stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)
    good = [pb.PublishAdapterRequest(chunk=part, crc32=zlib.crc32(part)) for part in (DATA[:100], DATA[100:])]
    bad = pb.PublishAdapterRequest(chunk=DATA[100:], crc32=zlib.crc32(DATA[100:]) ^ 1)
    error = await refused(stub.PublishAdapter(iter([header(), good[0], bad])))
    assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "CHUNK_CORRUPT")
    assert error.metadata == {"offset": "100"}
    assert (await stub.PublishAdapter(iter([header(), *good]))).version.version == 1
