from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from looksmith.v1 import fleet_pb2_grpc as fleet_rpc
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis import interceptors
from services.router import admission, attempt, dispatch
from services.router.compose import router
from services.router.settings import RouterSettings
from tests.unit.router.router_parts import acme


@pytest.fixture
def settings() -> RouterSettings:
    return RouterSettings(name="r1", registry="in memory", shutdown_grace_s=0)


@pytest.fixture
async def address(settings: RouterSettings) -> AsyncIterator[str]:
    """Where a router listens that knows one brand, acme."""
    async with router(settings, registry=acme()) as server:
        yield server.address


@pytest.fixture
async def painting(address: str) -> AsyncIterator[rpc.ImageGenerationServiceAsyncStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.ImageGenerationServiceStub(channel)


@pytest.fixture
async def fleet(address: str) -> AsyncIterator[fleet_rpc.FleetServiceAsyncStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield fleet_rpc.FleetServiceStub(channel)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (interceptors, admission, attempt, dispatch):
        monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    return exporter
