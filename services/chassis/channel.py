"""How a service dials another one: keepalive that finds a dead peer, and the trace and token that go along.

Leaves retries to whoever calls: layered retries multiply.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from opentelemetry import propagate

from looksmith.channel import bearer, dial
from services.chassis.redialling import RedialledChannel
from services.chassis.security import Credentials
from services.chassis.server import CHANNEL_OPTIONS

#: Left to itself, gRPC looks only every two minutes for a service that has been away for long.
_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 1000))


def open_channel(address: str, *, token: str = "", credentials: Credentials | None = None) -> grpc.aio.Channel:
    """A channel to another service; whoever opens it closes it.

    Args:
        address: host:port. By TLS the host is what the service's certificate must name.
        token: what every call shows; empty: nothing.
        credentials: what to dial with by TLS, asked for anew before each call; None: plaintext.
    """

    def metadata() -> Sequence[tuple[str, str]]:
        trace: dict[str, str] = {}
        propagate.inject(trace)
        return [*trace.items(), *bearer(token)]

    def dialled(shown: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
        return dial(address, credentials=shown, metadata=metadata, options=_OPTIONS)

    return RedialledChannel(credentials, dialled) if credentials else dialled()
