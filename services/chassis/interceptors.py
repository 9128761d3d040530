"""What happens around every call, whatever its kind: tracing, logging, and exceptions turned into statuses.

Each concern is one async context manager over a Call; one interceptor enters them for unary and streaming calls alike.
The stock OpenTelemetry interceptor is not used: it reports status 0 for cancelled and expired streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from opentelemetry import metrics, propagate, trace

from looksmith.errors import Internal, InvalidArgument, LooksmithError, error_to_status

log = structlog.get_logger()
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)

call_seconds = meter.create_histogram("looksmith_call", unit="s", description="Time of a call, by method and status.")


@dataclass
class Call:
    """One call on its way through the layers; ``code`` and ``reason`` are settled when the innermost layer is left.

    ``once_read`` sees the request of a call that has but one, before the servicer does; what it raises is answered.
    """

    method: str
    context: grpc.aio.ServicerContext[Any, Any]
    metadata: Mapping[str, str] = field(repr=False)  # holds tokens
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    once_read: list[Callable[[object], None]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


class NotAMessage(InvalidArgument):
    reason = "NOT_A_MESSAGE"


Layer = Callable[[Call], AbstractAsyncContextManager[None]]


class LayeredInterceptor(grpc.aio.ServerInterceptor):
    """Enters ``layers`` around every call, the first one outermost."""

    def __init__(self, *layers: Layer) -> None:
        self._layers = layers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(details)
        if handler is None:  # no such method: grpc answers UNIMPLEMENTED
            return None
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}

        def read(request: object, call: Call) -> object:
            if handler.request_streaming:
                return request
            # A single request is read in here, not by grpc, so that bytes which are none are answered like all else.
            message = handler.request_deserializer(request)
            for look in call.once_read:
                look(message)
            return message

        async def unary(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            call = Call(details.method, context, metadata)
            async with self._entered(call):
                return await (handler.unary_unary or handler.stream_unary)(read(request, call), context)

        async def stream(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            # Written here, not yielded: a cancelled call then ends inside the layers, which can tell.
            behaviour = handler.unary_stream or handler.stream_stream
            call = Call(details.method, context, metadata)
            async with (
                self._entered(call),
                aclosing(behaviour(read(request, call), context)) as responses,
            ):
                async for response in responses:
                    try:
                        await context.write(response)
                    except grpc.aio.InternalError:  # the caller was gone before grpc had heard of it
                        raise asyncio.CancelledError from None

        kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
        make = getattr(grpc, "_".join((*kind, "rpc_method_handler")))
        return make(  # type: ignore[no-any-return]  # one of four functions of the same type
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer if handler.request_streaming else None,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _entered(self, call: Call) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for layer in self._layers:
                await stack.enter_async_context(layer(call))
            yield


def tracing(span_names: Mapping[str, str]) -> Layer:
    """One server span a call, joined to the caller's trace; ``span_names`` maps methods to better names."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        with tracer.start_as_current_span(
            span_names.get(call.method, call.method.removeprefix("/")),
            context=propagate.extract(call.metadata),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": call.method.removeprefix("/")},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("rpc.response.status_code", call.code.name)
                if call.code is not grpc.StatusCode.OK:
                    span.set_status(trace.StatusCode.ERROR, call.reason or call.code.name)

    return layer


def logging(quiet: Collection[str] = ()) -> Layer:
    """One line a call, with what the handler bound to it, and its time in a histogram.

    Of ``quiet`` methods, those that went well are only worth a line to who looks for faults.
    """

    @asynccontextmanager
    async def layer(call: Call) -> AsyncIterator[None]:
        structlog.contextvars.clear_contextvars()
        try:
            yield
        finally:
            seconds = time.perf_counter() - call.started
            method = call.method.rpartition("/")[2]
            call_seconds.record(seconds, {"method": method, "status": call.code.name})
            fields = {"method": method, "status": call.code.name, "seconds": round(seconds, 4)}
            if call.reason:
                fields["reason"] = call.reason
            if call.code is not grpc.StatusCode.OK:
                log.warning("call.done", **fields)
            elif method in quiet:
                log.debug("call.done", **fields)
            else:
                log.info("call.done", **fields)

    return layer


@asynccontextmanager
async def answering(call: Call) -> AsyncIterator[None]:
    """Turns what the handler raised into a status with details, and settles the call's code."""
    try:
        yield
    except LooksmithError as error:
        await _abort(call, error)
    except DecodeError:
        await _abort(call, NotAMessage("the bytes are no message of this method; generate stubs from its .proto"))
    except asyncio.CancelledError:
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if _expired(call) else grpc.StatusCode.CANCELLED
        raise
    except Exception:  # a bug must not end the server or show its innards
        log.exception("call.failed", method=call.method)
        await _abort(call, Internal("internal error; the server's log tells more"))


def _expired(call: Call) -> bool:
    """Whether a call that was cancelled has run out of time.

    The caller's clock rings first: grpc rounds a deadline up by as much as a hundredth on its way (101.2 s arrive as
    102, with grpcio 1.85), and to milliseconds.
    """
    left = call.context.time_remaining()
    return left is not None and left <= 0.002 + (time.perf_counter() - call.started + left) / 100


async def _abort(call: Call, error: LooksmithError) -> None:
    call.code, call.reason = error.code, error.reason
    status: Any = rpc_status.to_status(error_to_status(error))
    await call.context.abort_with_status(status)
