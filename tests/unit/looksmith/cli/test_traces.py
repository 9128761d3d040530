"""The local trace store takes real OTLP and answers what the waterfall reads."""

import asyncio
import socket

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import format_trace_id

from looksmith.cli.traces import TraceStore, trace_store
from looksmith.cli.waterfall import fetch_trace, waterfall


def free_ports() -> tuple[int, int]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


async def test_spans_that_were_exported_come_back_as_one_tree() -> None:
    http_port, otlp_port = free_ports()
    async with trace_store(http_port=http_port, otlp_port=otlp_port):

        def export() -> str:
            provider = TracerProvider()
            exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{otlp_port}", insecure=True)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            tracer = provider.get_tracer("test")
            with (
                tracer.start_as_current_span("looksmith.generate") as root,
                tracer.start_as_current_span("place", attributes={"looksmith.worker": "worker-1"}),
            ):
                pass
            provider.shutdown()
            return format_trace_id(root.get_span_context().trace_id)

        trace_id = await asyncio.to_thread(export)
        spans = await fetch_trace(f"http://127.0.0.1:{http_port}", trace_id, names=("looksmith.generate", "place"))
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"looksmith.generate", "place"}
    assert by_name["place"].parent == by_name["looksmith.generate"].id
    lines = waterfall(spans, width=80).plain.splitlines()
    assert lines[0].startswith("looksmith.generate")
    assert lines[1].startswith("  place")
    assert "worker-1" in lines[1]


async def test_a_trace_that_nobody_sent_is_empty() -> None:
    http_port, otlp_port = free_ports()
    async with trace_store(http_port=http_port, otlp_port=otlp_port):
        endpoint = f"http://127.0.0.1:{http_port}"
        assert await fetch_trace(endpoint, "0" * 32, names=("looksmith.generate",), patience_s=0) == []
    assert TraceStore().query("unknown") == {"data": []}
