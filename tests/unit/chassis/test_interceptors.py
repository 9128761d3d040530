"""The layers around a call, on a real server: statuses, spans and log lines for every kind of ending."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import grpc
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from looksmith.errors import InvalidField, error_from_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc
from services.chassis import interceptors
from services.chassis.interceptors import LayeredInterceptor
from services.chassis.server import ServedApi, grpc_server
from services.chassis.settings import ServiceSettings

NAME = "looksmith.v1.ImageGenerationService"
METHOD = f"/{NAME}/Generate"


class Settings(ServiceSettings):
    env_prefix: ClassVar[str] = "TEST_"
    shutdown_grace_s: float = 0


class Painter(rpc.ImageGenerationServiceServicer):
    """Does as the prompt says."""

    def __init__(self) -> None:
        self.cleaned_up = asyncio.Event()

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        try:
            yield pb.GenerateResponse(accepted=pb.Accepted(request_id="r1"))
            if request.prompt == "refuse":
                raise InvalidField("prompt", "asks to be refused", reason="PROMPT_EMPTY")
            if request.prompt == "bug":
                raise KeyError("secret")
            if request.prompt == "wait":
                await asyncio.sleep(30)
        finally:
            self.cleaned_up.set()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(interceptors, "tracer", provider.get_tracer("test"))
    return exporter


@asynccontextmanager
async def painting(
    painter: Painter, *, quiet: Collection[str] = ()
) -> AsyncIterator[rpc.ImageGenerationServiceAsyncStub]:
    api = ServedApi(NAME, lambda server: rpc.add_ImageGenerationServiceServicer_to_server(painter, server))
    async with (
        grpc_server(Settings(), [api], span_names={METHOD: "looksmith.generate"}, quiet=quiet) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield rpc.ImageGenerationServiceStub(channel)


async def only_span(spans: InMemorySpanExporter) -> ReadableSpan:
    for _ in range(100):
        if found := spans.get_finished_spans():
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError("no span was finished")


async def test_typed_error_reaches_the_caller_with_its_field(spans: InMemorySpanExporter) -> None:
    async with painting(Painter()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Generate(pb.GenerateRequest(prompt="refuse"))]
    error = error_from_rpc(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_EMPTY")
    assert error.violations[0].field == "prompt"
    span = await only_span(spans)
    assert span.attributes and span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert span.status.description == "PROMPT_EMPTY"


async def test_bug_answers_internal_and_hides_its_words(spans: InMemorySpanExporter) -> None:
    async with painting(Painter()) as stub:
        with structlog.testing.capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Generate(pb.GenerateRequest(prompt="bug"))]
        assert [m async for m in stub.Generate(pb.GenerateRequest(prompt="fine"))], "the server died of it"
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())
    assert any(line["event"] == "call.failed" for line in lines)


@pytest.mark.parametrize(
    ("quiet", "prompt", "level"),
    [((), "fine", "info"), (("Generate",), "fine", "debug"), (("Generate",), "refuse", "warning")],
)
async def test_each_call_is_one_line_and_only_good_ones_of_quiet_methods_are_held_back(
    quiet: tuple[str, ...], prompt: str, level: str
) -> None:
    async with painting(Painter(), quiet=quiet) as stub:
        with structlog.testing.capture_logs() as lines, contextlib.suppress(grpc.aio.AioRpcError):
            [_ async for _ in stub.Generate(pb.GenerateRequest(prompt=prompt))]
    (line,) = [line for line in lines if line["event"] == "call.done"]
    assert line["log_level"] == level


async def test_success_is_one_span_under_the_caller_s_trace(spans: InMemorySpanExporter) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with painting(Painter()) as stub:
        [_ async for _ in stub.Generate(pb.GenerateRequest(prompt="fine"), metadata=[("traceparent", parent)])]
    span = await only_span(spans)
    assert span.name == "looksmith.generate"
    assert span.context and trace.format_trace_id(span.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
    assert span.attributes and span.attributes["rpc.response.status_code"] == "OK"


async def test_cancelled_stream_is_cleaned_up_and_reported_as_cancelled(spans: InMemorySpanExporter) -> None:
    painter = Painter()
    async with painting(painter) as stub:
        call = stub.Generate(pb.GenerateRequest(prompt="wait"))
        await call.read()
        call.cancel()
        await asyncio.wait_for(painter.cleaned_up.wait(), 2)
        span = await only_span(spans)
    assert span.attributes and span.attributes["rpc.response.status_code"] == "CANCELLED"


@pytest.mark.parametrize("timeout_s", [0.3, 1.001])  # grpc makes 1.01 of the second on its way
async def test_expired_stream_is_cleaned_up_and_reported_as_expired(
    spans: InMemorySpanExporter, timeout_s: float
) -> None:
    painter = Painter()
    async with painting(painter) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Generate(pb.GenerateRequest(prompt="wait"), timeout=timeout_s)]
        await asyncio.wait_for(painter.cleaned_up.wait(), 2)
        span = await only_span(spans)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert span.attributes and span.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


class Gone:
    """The context of a call whose caller has left a moment ago, which real ones are too seldom to be tested with."""

    def time_remaining(self) -> None:
        return None

    async def write(self, message: object) -> None:
        raise grpc.aio.InternalError("nobody is there")


async def test_a_caller_that_has_left_when_it_is_answered_is_reported_as_cancelled() -> None:
    painting_alone: Any = Painter().Generate
    real: Any = grpc.unary_stream_rpc_method_handler(painting_alone, pb.GenerateRequest.FromString)

    async def found(details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401  # grpc's handler
        return real

    details: Any = SimpleNamespace(method=METHOD, invocation_metadata=())
    layered = LayeredInterceptor(interceptors.logging(), interceptors.answering)
    handler: Any = await layered.intercept_service(found, details)
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(pb.GenerateRequest(prompt="fine").SerializeToString(), Gone())
    assert [(line["event"], line["status"]) for line in lines] == [("call.done", "CANCELLED")]
