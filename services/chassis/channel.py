"""How a service dials another one: keepalive that finds a dead peer, and the trace and token that go along.

Leaves retries to whoever calls: layered retries multiply.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from opentelemetry import propagate

from looksmith.channel import adding, bearer
from services.chassis.server import CHANNEL_OPTIONS

#: Left to itself, gRPC looks only every two minutes for a service that has been away for long.
_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 1000))


def open_channel(address: str, *, token: str = "") -> grpc.aio.Channel:
    """A channel to another service; whoever opens it closes it. ``token``: what every call shows; empty: nothing."""

    def metadata() -> Sequence[tuple[str, str]]:
        trace: dict[str, str] = {}
        propagate.inject(trace)
        return [*trace.items(), *bearer(token)]

    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=adding(metadata))
