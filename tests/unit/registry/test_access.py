"""What tokens allow at a registry: over every call, and over many that a stranger might try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from looksmith.channel import adding, bearer
from looksmith.errors import PermissionDenied
from looksmith.nouns import AdapterRef, Brand
from looksmith.v1 import adapter_pb2, brand_pb2, brand_pb2_grpc, registry_pb2, registry_pb2_grpc
from services.chassis.server import grpc_server
from services.registry.client import RegistryClient
from services.registry.compose import apis
from services.registry.object_store import InMemoryObjectStore
from tests.unit.chassis.token_files import ALL, tokens_file
from tests.unit.registry.parts import a_core_with_brand, header_for, lora_file, publish
from tests.unit.registry.test_client import SETTINGS


@asynccontextmanager
async def serving(store: InMemoryObjectStore, tokens: Path) -> AsyncIterator[Callable[[str], grpc.aio.Channel]]:
    """A registry that asks for tokens, and how to dial it with one."""
    core = await a_core_with_brand(store)
    await core.brands.put(Brand("bolt"))
    settings = SETTINGS.model_copy(update={"tokens": tokens})
    opened: list[grpc.aio.Channel] = []
    async with grpc_server(settings, apis(core)) as server:

        def dial(token: str) -> grpc.aio.Channel:
            channel = grpc.aio.insecure_channel(server.address, interceptors=adding(lambda: bearer(token)))
            opened.append(channel)
            return channel

        try:
            yield dial
        finally:
            for channel in opened:
                await channel.close()


@pytest.fixture
async def store() -> InMemoryObjectStore:
    """Brand acme has an adapter with two versions."""
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    for note in ("1", "2"):
        await publish(core, lora_file(note))
    await core.catalog.promote(AdapterRef("acme", "style", 2))
    return store


STYLE: dict[str, Any] = {"brand": "acme", "adapter": "style"}
REF = adapter_pb2.AdapterRef(**STYLE)
DIGEST = header_for(lora_file("1")).digest
NEW = header_for(lora_file("3"))
#: A call of every method that means acme.
CALLS: dict[str, Message] = {
    "PublishAdapter": registry_pb2.PublishAdapterRequest(
        header=registry_pb2.PublishHeader(family="tiny", digest=NEW.digest, size_bytes=NEW.size_bytes, **STYLE)
    ),
    "GetUpload": registry_pb2.GetUploadRequest(brand="acme", request_id="r"),
    "GetAdapter": registry_pb2.GetAdapterRequest(**STYLE),
    "ListAdapters": registry_pb2.ListAdaptersRequest(brand="acme"),
    "ListAdapterVersions": registry_pb2.ListAdapterVersionsRequest(**STYLE),
    "ResolveAdapter": registry_pb2.ResolveAdapterRequest(ref=REF),
    "DownloadAdapter": registry_pb2.DownloadAdapterRequest(brand="acme", digest=DIGEST),
    "SetAlias": registry_pb2.SetAliasRequest(alias="next", version=1, **STYLE),
    "PromoteAdapter": registry_pb2.PromoteAdapterRequest(ref=REF),
    "RollbackAdapter": registry_pb2.RollbackAdapterRequest(**STYLE),
    "YankAdapterVersion": registry_pb2.YankAdapterVersionRequest(version=1, reason="old", **STYLE),
    "GetAdapterHistory": registry_pb2.GetAdapterHistoryRequest(**STYLE),
    "WatchAdapters": registry_pb2.WatchAdaptersRequest(brand="acme"),
    "PutBrand": brand_pb2.PutBrandRequest(brand=brand_pb2.Brand(name="acme")),
    "GetBrand": brand_pb2.GetBrandRequest(name="acme"),
    "ListBrands": brand_pb2.ListBrandsRequest(),
    "CheckStore": registry_pb2.CheckStoreRequest(brand="acme"),
    "CollectGarbage": registry_pb2.CollectGarbageRequest(),
    "GetStatus": registry_pb2.GetStatusRequest(),
    "DeleteBrand": brand_pb2.DeleteBrandRequest(name="acme", confirm_name="acme"),
}
#: Of brands that the caller may not read it just says nothing.
SHOWS_LESS = {"ListBrands"}
#: Not for a token of one brand.
OF_ALL_BRANDS = {"CollectGarbage", "GetStatus"}


async def ask(channel: grpc.aio.Channel, method: str, request: Message) -> list[Any]:
    """The answers to a call, all of them where it streams."""
    for stub in (
        registry_pb2_grpc.AdapterRegistryServiceStub(channel),
        registry_pb2_grpc.RegistryAdminServiceStub(channel),
        brand_pb2_grpc.BrandServiceStub(channel),
    ):
        if call := getattr(stub, method, None):
            if method == "PublishAdapter":
                return [await call(iter([request]), timeout=5)]
            made = call(request, timeout=5)
            if method == "WatchAdapters":  # has no end
                return [await made.read()]
            return [answer async for answer in made] if hasattr(made, "__aiter__") else [await made]
    raise AssertionError(method)


async def tried(channel: grpc.aio.Channel, method: str, request: Message) -> tuple[list[Any], grpc.StatusCode | None]:
    """The answers, and how the call ended if not well."""
    try:
        return await ask(channel, method, request), None
    except grpc.aio.AioRpcError as error:
        return [], error.code()


async def refusal(channel: grpc.aio.Channel, method: str, request: Message) -> grpc.StatusCode | None:
    return (await tried(channel, method, request))[1]


def test_every_method_is_among_the_calls() -> None:
    services = (registry_pb2.DESCRIPTOR.services_by_name, brand_pb2.DESCRIPTOR.services_by_name)
    assert set(CALLS) == {method.name for by_name in services for s in by_name.values() for method in s.methods}


async def test_every_call_asks_whose_it_is_and_another_brands_token_gets_nothing(
    store: InMemoryObjectStore, tmp_path: Path
) -> None:
    tokens = tokens_file(tmp_path, ("of-acme", ALL, ["acme"]), ("of-bolt", ALL, ["bolt"]), ("of-all", ALL, ["*"]))
    async with serving(store, tokens) as dial:
        before = dict(store.objects)
        for method, request in CALLS.items():
            assert await refusal(dial(""), method, request) is grpc.StatusCode.UNAUTHENTICATED, method
            expected = None if method in SHOWS_LESS else grpc.StatusCode.PERMISSION_DENIED
            assert await refusal(dial("of-bolt"), method, request) is expected, method
        assert store.objects == before
        (listed,) = await ask(dial("of-bolt"), "ListBrands", CALLS["ListBrands"])
        assert [brand.name for brand in listed.brands] == ["bolt"]
        (all_adapters,) = await ask(dial("of-bolt"), "ListAdapters", registry_pb2.ListAdaptersRequest())
        assert not all_adapters.adapters
        (mine,) = await ask(dial("of-acme"), "ListAdapters", registry_pb2.ListAdaptersRequest())
        assert [adapter.name for adapter in mine.adapters] == ["style"]
        for method in OF_ALL_BRANDS:
            assert await refusal(dial("of-acme"), method, CALLS[method]) is grpc.StatusCode.PERMISSION_DENIED, method
        for method, request in CALLS.items():
            found = await refusal(dial("of-all" if method in OF_ALL_BRANDS else "of-acme"), method, request)
            assert found not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}, method


async def test_a_token_of_one_brand_learns_and_changes_nothing_of_another_whatever_it_tries(
    store: InMemoryObjectStore, tmp_path: Path
) -> None:
    random = Random(1)
    tokens = tokens_file(tmp_path, ("of-acme", ALL, ["acme"]), ("of-bolt", ALL, ["bolt"]))
    versions = [b"style", DIGEST.encode()]
    async with serving(store, tokens) as dial:
        channel = dial("of-bolt")
        before = {key: data for key, data in store.objects.items() if "/acme/" in key}
        for _ in range(400):
            method = random.choice([*CALLS])
            request = _varied(CALLS[method], random)
            answers, code = await tried(channel, method, request)
            assert code is not grpc.StatusCode.INTERNAL, request
            told, sent = b"".join(answer.SerializeToString() for answer in answers), request.SerializeToString()
            assert not any(word in told and word not in sent for word in versions), request
        assert {key: data for key, data in store.objects.items() if "/acme/" in key} == before
        # The same digest, with the right token
        answers = await ask(dial("of-acme"), "DownloadAdapter", CALLS["DownloadAdapter"])
        assert b"".join(answer.chunk for answer in answers) == lora_file("1")


def _varied(request: Message, random: Random) -> Message:
    """The same call with some of its texts and numbers replaced, in messages within it too."""
    varied = type(request)()
    varied.CopyFrom(request)
    texts = ("acme", "bolt", "", "*", "acme ", "ACME", "../acme", "acme/a/style", "bolt/../acme", DIGEST)

    def vary(message: Message) -> None:
        for field in message.DESCRIPTOR.fields:
            if field.message_type or field.is_repeated or random.random() < 0.5:
                continue
            if field.type == field.TYPE_STRING:
                setattr(message, field.name, random.choice(texts))
            elif field.type in {field.TYPE_UINT32, field.TYPE_UINT64}:
                setattr(message, field.name, random.choice((0, 1, 2, 1000)))
        for field, value in message.ListFields():
            if field.message_type and not field.is_repeated:
                vary(value)

    vary(varied)
    return varied


async def test_publishers_move_no_protected_alias(store: InMemoryObjectStore, tmp_path: Path) -> None:
    tokens = tokens_file(
        tmp_path, ("publisher", ["read", "publish"], ["acme"]), ("lead", ["read", "promote"], ["acme"])
    )
    async with serving(store, tokens) as dial:
        publisher, lead = RegistryClient(dial("publisher")), RegistryClient(dial("lead"))
        data = lora_file("3")
        published = await publisher.publish(header_for(data, aliases=("next",)), [data])
        assert published.aliases == ("next",)
        with pytest.raises(PermissionDenied):
            await publisher.publish(header_for(lora_file("4"), aliases=("production",)), [lora_file("4")])
        with pytest.raises(PermissionDenied):
            await publisher.promote(AdapterRef("acme", "style", 3))
        with pytest.raises(PermissionDenied):
            await publisher.rollback("acme", "style")
        await publisher.set_alias("acme", "style", "next", 1)
        assert (await lead.promote(AdapterRef("acme", "style", 3))).alias.version == 3
        with pytest.raises(PermissionDenied):
            await lead.publish(header_for(lora_file("5")), [lora_file("5")])
        # The first version of an adapter goes live only if its publisher may let it.
        first = await publisher.publish(header_for(data, adapter="other"), [data])
        assert first.aliases == ()
