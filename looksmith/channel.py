"""How a server is dialled: by TLS or not, and with what every call carries, such as a token. Knows no service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

Details = grpc.aio.ClientCallDetails
Continuation = Callable[[Details, Any], Awaitable[Any]]
Metadata = Callable[[], Sequence[tuple[str, str]]]


def dial(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """A channel, by TLS if there are ``credentials``; whoever opens it closes it.

    ``metadata`` is asked anew for each call, except those that stream both ways, which carry their own.
    """
    interceptors = adding(metadata) if metadata else None
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


def tls(ca: Path, certificate: Path | None = None, key: Path | None = None) -> grpc.ChannelCredentials:
    """What to dial with by TLS: the CAs that servers are checked by, and for mutual TLS one's own certificate and key.

    All of them are PEM files, the key without a passphrase.

    Raises:
        OSError: a file can't be read.
        ValueError: one of certificate and key is there without the other.
    """
    if (certificate is None) is not (key is None):
        raise ValueError("a certificate and its key go together")
    pair = (key.read_bytes(), certificate.read_bytes()) if certificate and key else ()
    return grpc.ssl_channel_credentials(ca.read_bytes(), *pair)


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
