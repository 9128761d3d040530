"""Asks every part of a running system how it is, for `looksmith doctor`; what answers mean is findings.py's business.

Whatever does not answer becomes a fact like the others: no question keeps the next from being asked.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import grpc

from looksmith.cli.calls import Shown, answer, connected
from looksmith.cli.findings import (
    Asked,
    CertificateFacts,
    PaintedFacts,
    RegistryFacts,
    RouterFacts,
    UseFacts,
)
from looksmith.cli.waterfall import fetch_trace
from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.v1 import (
    adapter_pb2,
    brand_pb2,
    brand_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

T = TypeVar("T")

#: Seconds that one answer may take; the store behind a registry gets 8 of them.
PATIENCE_S = 12.0
PAINTING_S = 180.0
#: Brands whose adapters are looked at; a page more is asked for until there are so many.
BRANDS = 2000
#: Questions to a registry at once.
AT_ONCE = 16


async def registry_facts(address: str, who: Shown) -> RegistryFacts:
    async def ask(channel: grpc.aio.Channel) -> registry_pb2.GetStatusResponse:
        stub = registry_pb2_grpc.RegistryAdminServiceStub(channel)
        return await answer(stub.GetStatus(registry_pb2.GetStatusRequest(), timeout=PATIENCE_S))

    asked, told = await _asked(address, who, ask)
    return RegistryFacts(address, asked, *_either(told))


async def router_facts(address: str, who: Shown) -> RouterFacts:
    async def ask(channel: grpc.aio.Channel) -> fleet_pb2.ListWorkersResponse:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        return await answer(stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=PATIENCE_S))

    asked, told = await _asked(address, who, ask)
    return RouterFacts(address, asked, *_either(told))


async def use_facts(registry: str, who: Shown) -> list[UseFacts]:
    """The default adapters of all brands, resolved as a router would. Nothing where the registry does not answer."""
    with suppress(LooksmithError):
        async with connected(registry, as_who=who) as channel:
            resolving = asyncio.Semaphore(AT_ONCE)
            stub = registry_pb2_grpc.AdapterRegistryServiceStub(channel)

            async def look(brand: str, use: adapter_pb2.AdapterUse) -> UseFacts:
                ref = adapter_pb2.AdapterRef(brand=brand, adapter=use.adapter, alias="production")
                match use.WhichOneof("pick"):
                    case "alias":
                        ref.alias = use.alias
                    case "version":
                        ref.version = use.version
                    case "digest":
                        ref.digest = use.digest
                request = registry_pb2.ResolveAdapterRequest(ref=ref)
                try:
                    async with resolving:
                        resolved = await answer(stub.ResolveAdapter(request, timeout=PATIENCE_S))
                except LooksmithError as error:
                    return UseFacts(brand, use.adapter, error=error)
                return UseFacts(brand, use.adapter, resolved.version.manifest.family)

            brands = [brand async for brand in _brands(channel)]
            return await asyncio.gather(*(look(b.name, use) for b in brands for use in b.default_adapters))
    return []


async def first_brand(registry: str, who: Shown) -> str:
    """A brand to paint a picture with: the first that there is. Raises LooksmithError."""
    async with connected(registry, as_who=who) as channel:
        async for brand in _brands(channel):
            return brand.name
    return ""


async def _brands(channel: grpc.aio.Channel) -> AsyncIterator[brand_pb2.Brand]:
    stub = brand_pb2_grpc.BrandServiceStub(channel)
    page, count = brand_pb2.ListBrandsRequest(page_size=200), 0
    while count < BRANDS:
        listed = await answer(stub.ListBrands(page, timeout=PATIENCE_S))
        for brand in listed.brands:
            yield brand
        count += len(listed.brands)
        page.page_token = listed.next_page_token
        if not page.page_token:
            return


async def certificate_facts(address: str, environ: Mapping[str, str] = os.environ) -> CertificateFacts:
    """The certificate that a server shows, checked by LOOKSMITH_TLS_CA."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=environ["LOOKSMITH_TLS_CA"])
    context.set_alpn_protocols(["h2"])
    if environ.get("LOOKSMITH_TLS_CERT"):
        context.load_cert_chain(environ["LOOKSMITH_TLS_CERT"], environ.get("LOOKSMITH_TLS_KEY"))
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except ssl.SSLCertVerificationError as error:
        return CertificateFacts(address, problem=_distrust(error))
    except (OSError, TimeoutError) as error:  # whoever is not there, or speaks no TLS, has been found by the others
        return CertificateFacts(address, problem=f"can't be looked at: {error}")
    certificate = writer.get_extra_info("peercert")
    writer.close()
    with suppress(OSError):  # such as a server that wants a certificate of ours
        await writer.wait_closed()
    return CertificateFacts(address, datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC))


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    """Why a certificate is not trusted, in words; OpenSSL's own where they say it better."""
    said = error.verify_message
    if "expired" in said:
        return "has expired"
    if "self-signed" in said or "issuer" in said:
        return f"is not of the CA in LOOKSMITH_TLS_CA: {said}"
    return said


async def painted_facts(worker: fleet_pb2.Worker, brand: str, who: Shown, traces: str) -> PaintedFacts:
    """One picture, asked of a worker itself. ``traces``: where its trace is looked for; empty: nowhere."""
    registration, trace_id = worker.registration, secrets.token_hex(16)
    request = pb.GenerateRequest(brand=brand, prompt="a test picture", omit_image_bytes=True)
    if registration.recipes:
        request.recipe = registration.recipes[0].name
    metadata = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)
    began = time.monotonic()
    try:
        async with connected(registration.address, as_who=who) as channel:
            stub: rpc.ImageGenerationServiceAsyncStub = rpc.ImageGenerationServiceStub(channel)
            try:
                async for _ in stub.Generate(request, timeout=PAINTING_S, metadata=metadata):
                    pass
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error) from None
    except LooksmithError as error:
        return PaintedFacts(registration.name, error=error)
    took = time.monotonic() - began
    traced = bool(await fetch_trace(traces, trace_id, names={"worker.generate"})) if traces else None
    return PaintedFacts(registration.name, took, traced=traced)


async def _asked(
    address: str, who: Shown, ask: Callable[[grpc.aio.Channel], Awaitable[T]]
) -> tuple[Asked, T | LooksmithError]:
    sent = datetime.now(UTC)
    told: T | LooksmithError
    try:
        async with connected(address, as_who=who) as channel:
            told = await ask(channel)
    except LooksmithError as error:
        told = error
    return Asked(sent, datetime.now(UTC)), told


def _either(told: T | LooksmithError) -> tuple[T | None, LooksmithError | None]:
    return (None, told) if isinstance(told, LooksmithError) else (told, None)


async def all_facts(
    registries: Sequence[str], routers: Sequence[str], who: Shown
) -> tuple[list[RegistryFacts], list[RouterFacts], list[UseFacts]]:
    """All at once: one that hangs costs its patience once."""
    asked, seen, uses = await asyncio.gather(
        asyncio.gather(*(registry_facts(address, who) for address in registries)),
        asyncio.gather(*(router_facts(address, who) for address in routers)),
        use_facts(registries[0], who),
    )
    return list(asked), list(seen), uses
