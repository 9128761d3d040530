"""A channel whose every call carries the same metadata, such as a token. Knows no service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

Details = grpc.aio.ClientCallDetails
Continuation = Callable[[Details, Any], Awaitable[Any]]
Metadata = Callable[[], Sequence[tuple[str, str]]]


def bearer(token: str) -> Sequence[tuple[str, str]]:
    """The metadata that a token goes in; none for none."""
    return [("authorization", f"Bearer {token}")] if token else []


def adding(metadata: Metadata) -> list[grpc.aio.ClientInterceptor]:
    """Interceptors that ask ``metadata`` anew for each call."""
    return [_UnaryUnary(metadata), _UnaryStream(metadata), _StreamUnary(metadata)]


class _Adding:
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def _with(self, details: Details) -> Details:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._metadata())
        return Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


# grpc.aio looks at an interceptor's first base only, so each kind of call needs a class of its own.


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor, _Adding):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: Details, request: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(self._with(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor, _Adding):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: Details, request: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(self._with(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor, _Adding):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: Details, request_iterator: object
    ) -> Any:  # noqa: ANN401  # whatever grpc made of it
        return await continuation(self._with(client_call_details), request_iterator)
