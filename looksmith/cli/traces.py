"""A small place for traces on a laptop: takes OTLP over gRPC, answers Jaeger's query API for single traces.

In production a collector and Jaeger stand here; the command reads both the same way.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

#: Traces kept; the oldest goes first.
KEPT = 1000


class TraceStore(trace_service_pb2_grpc.TraceServiceServicer):
    """The newest traces by id, in the form in which Jaeger's query API answers."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._traces: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()

    async def Export(  # noqa: N802  # the stubs name it
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002  # the stubs pass it
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            service = {a.key: _plain(a.value) for a in resource.resource.attributes}.get("service.name", "")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._add(span, str(service))
        return trace_service_pb2.ExportTraceServiceResponse()

    def _add(self, span: Span, service: str) -> None:
        trace_id = span.trace_id.hex()
        spans = self._traces.setdefault(trace_id, [])
        self._traces.move_to_end(trace_id)
        while len(self._traces) > self._kept:
            self._traces.popitem(last=False)
        tags = [{"key": a.key, "value": _plain(a.value)} for a in span.attributes]
        parent = {"refType": "CHILD_OF", "traceID": trace_id, "spanID": span.parent_span_id.hex()}
        spans.append(
            {
                "traceID": trace_id,
                "spanID": span.span_id.hex(),
                "operationName": span.name,
                "references": [parent] if span.parent_span_id else [],
                "startTime": span.start_time_unix_nano // 1000,
                "duration": (span.end_time_unix_nano - span.start_time_unix_nano) // 1000,
                "tags": [*tags, {"key": "service.name", "value": service}],
            }
        )

    def query(self, trace_id: str) -> dict[str, Any]:
        spans = list(self._traces.get(trace_id, ()))
        return {"data": [{"traceID": trace_id, "spans": spans}] if spans else []}


def _plain(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind in {"string_value", "int_value", "double_value", "bool_value"} else str(value)


@asynccontextmanager
async def trace_store(*, http_port: int, otlp_port: int) -> AsyncIterator[TraceStore]:
    """A store that listens on loopback: OTLP on ``otlp_port``, ``GET /api/traces/ID`` on ``http_port``."""
    store = TraceStore()

    class Query(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(store.query(self.path.rpartition("/")[2])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing: the terminal belongs to the stack."""

    receiver = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(store, receiver)  # type: ignore[no-untyped-call]  # untyped
    receiver.add_insecure_port(f"127.0.0.1:{otlp_port}")
    await receiver.start()
    answering = ThreadingHTTPServer(("127.0.0.1", http_port), Query)
    thread = threading.Thread(target=answering.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        await asyncio.to_thread(answering.shutdown)
        answering.server_close()
        thread.join()
        await receiver.stop(0)
