"""An OTLP receiver on loopback: keeps the spans that services export to it, and waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

#: Seconds to wait for spans: an exporter sends after a delay, and a busy machine makes that a long one.
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str  # empty: the root of its trace
    start_ns: int
    end_ns: int
    error: str | None  # the description of a status of ERROR
    attributes: dict[str, str]

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """``endpoint`` is for OTEL_EXPORTER_OTLP_ENDPOINT. Serves on threads of its own, so exporters may block a loop.

    ``raw`` is what came, to the last byte.
    """

    endpoint: str

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            service = {a.key: a.value.string_value for a in resource.resource.attributes}.get("service.name", "")
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        service=service,
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
                        attributes={a.key: a.value.string_value for a in span.attributes},
                    )
                )
        return trace_service_pb2.ExportTraceServiceResponse()

    async def trace_of(self, name: str, *, of: str = "") -> list[Span]:
        """All spans of the trace that holds a span of that name, once it is here; ``of`` says which trace it is."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [s for s in self.spans if s.name == name and s.trace.startswith(of)]):  # noqa: ASYNC110  # a thread's
                await asyncio.sleep(0.02)
        return [span for span in self.spans if span.trace == found[0].trace]


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]  # untyped
        receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(0).wait()


@contextmanager
def exported(
    receiver: OtlpReceiver, modules: Iterable[ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Iterator[TracerProvider]:
    """Sends the spans that ``modules`` of this process make to the receiver."""
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=receiver.endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=20))
    for module in modules:
        monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    try:
        yield provider
    finally:
        provider.shutdown()
