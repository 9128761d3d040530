"""How a service dials another one: keepalive that finds a dead peer, and the trace that goes along.

Leaves retries to whoever calls: layered retries multiply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import propagate

from services.chassis.server import CHANNEL_OPTIONS

Details = grpc.aio.ClientCallDetails
Continuation = Callable[[Details, Any], Awaitable[Any]]


def _traced(details: Details) -> Details:
    """The same call with the current trace in its metadata."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


# grpc.aio looks at an interceptor's first base only, so each kind of call needs a class of its own.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(_traced(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(_traced(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(_traced(client_call_details), request_iterator)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to another service; whoever opens it closes it."""
    interceptors = [_UnaryUnary(), _UnaryStream(), _StreamUnary()]
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=interceptors)
