"""Any RPC of any server, from its descriptor: found by reflection, called without a stub, and how it was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from looksmith.channel import bearer
from looksmith.v1 import adapter_pb2, brand_pb2, fleet_pb2, generation_pb2, registry_pb2
from services.chassis.permissions import PERMISSIONS, Rule
from tests.unit.registry.parts import header_for, lora_file

STYLE: dict[str, Any] = {"brand": "acme", "adapter": "style"}
REF = adapter_pb2.AdapterRef(**STYLE, version=1)
OLD, NEW = header_for(lora_file("1")), header_for(lora_file("new"))
_ACME = generation_pb2.GenerateRequest(brand="acme", prompt="a kite", steps=1)

#: Requests about acme, its adapter or the worker that would do something if they were let through.
REQUESTS: Mapping[str, Message] = {
    "PublishAdapter": registry_pb2.PublishAdapterRequest(
        header=registry_pb2.PublishHeader(family="tiny", digest=NEW.digest, size_bytes=NEW.size_bytes, **STYLE)
    ),
    "GetUpload": registry_pb2.GetUploadRequest(brand="acme", request_id="r"),
    "DownloadAdapter": registry_pb2.DownloadAdapterRequest(brand="acme", digest=OLD.digest),
    "SetAlias": registry_pb2.SetAliasRequest(alias="next", version=1, **STYLE),
    "PromoteAdapter": registry_pb2.PromoteAdapterRequest(ref=REF),
    "ResolveAdapter": registry_pb2.ResolveAdapterRequest(ref=REF),
    "YankAdapterVersion": registry_pb2.YankAdapterVersionRequest(version=1, reason="old", **STYLE),
    "PutBrand": brand_pb2.PutBrandRequest(brand=brand_pb2.Brand(name="acme", display_name="other")),
    "GetBrand": brand_pb2.GetBrandRequest(name="acme"),
    "DeleteBrand": brand_pb2.DeleteBrandRequest(name="acme", confirm_name="acme"),
    "Generate": _ACME,
    "ExplainPlacement": fleet_pb2.ExplainPlacementRequest(request=_ACME),
    "Join": fleet_pb2.JoinRequest(
        registration=fleet_pb2.WorkerRegistration(
            name="intruder",
            incarnation="1",
            address="127.0.0.1:1",
            recipes=[
                fleet_pb2.WorkerRecipe(name="tiny", sizes=[fleet_pb2.ImageSize(width=8, height=8)], steps=[1]),
            ],
        )
    ),
    "WarmAdapter": fleet_pb2.WarmAdapterRequest(ref=REF),
    "GetWorker": fleet_pb2.GetWorkerRequest(name="worker"),
    "DrainWorker": fleet_pb2.DrainWorkerRequest(name="worker"),
    "EvictAdapter": fleet_pb2.EvictAdapterRequest(digest=OLD.digest),
    "ResetWorker": fleet_pb2.ResetWorkerRequest(name="worker"),
}


@dataclass(frozen=True)
class Rpc:
    """One method of one server."""

    server: str
    method: MethodDescriptor

    @property
    def name(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    def __str__(self) -> str:
        return f"{self.server}{self.name}"

    @property
    def rule(self) -> Rule | None:
        """None: it is not ours."""
        return PERMISSIONS.get(self.name)

    @property
    def of_a_brand(self) -> bool:
        """Whether whoever may do everything with acme may do this."""
        return self.rule is not None and any(need.brand or need.unnamed.name == "SOME" for need in self.rule.needs)

    def request(self) -> Message:
        if found := REQUESTS.get(self.method.name):
            return found
        empty = GetMessageClass(self.method.input_type)()
        for field in set(STYLE) & {field.name for field in empty.DESCRIPTOR.fields}:
            setattr(empty, field, STYLE[field])
        return empty


@dataclass(frozen=True)
class Answer:
    """How a call went: the first message, or nothing; ``code`` None: well."""

    code: grpc.StatusCode | None
    said: bytes = b""
    details: str = ""


async def services_of(channel: grpc.aio.Channel, token: str) -> list[str]:
    """Full names, as reflection lists them."""
    untyped: Any = channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async for told in stub.ServerReflectionInfo(iter([asked]), timeout=5, metadata=bearer(token)):
        return [service.name for service in told.list_services_response.service]
    return []


def rpcs_of(server: str, services: list[str]) -> Iterator[Rpc]:
    for service in services:
        for method in descriptor_pool.Default().FindServiceByName(service).methods:
            yield Rpc(server, method)


async def called(channel: grpc.aio.Channel, rpc: Rpc, token: str = "", *, request: Message | None = None) -> Answer:
    """One call with one request; of a stream of answers the first is enough."""
    kinds = ("stream" if rpc.method.client_streaming else "unary", "stream" if rpc.method.server_streaming else "unary")
    make = getattr(channel, "_".join(kinds))
    call = make(rpc.name, type(request or rpc.request()).SerializeToString, bytes)
    sent = request or rpc.request()
    made = call(iter([sent]) if rpc.method.client_streaming else sent, timeout=5, metadata=bearer(token))
    try:
        if not rpc.method.server_streaming:
            return Answer(None, await made)
        async with asyncio.timeout(5):
            first = await made.read()
        return Answer(None, b"") if first is grpc.aio.EOF else Answer(None, first)
    except grpc.aio.AioRpcError as error:
        return Answer(error.code(), details=error.details() or "")
    finally:
        made.cancel()
