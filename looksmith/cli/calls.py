"""What the commands share: where servers are, how a reference is written, one call and its errors."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from looksmith.channel import bearer, dial, tls
from looksmith.cli.terminal import Problem, one_line_errors
from looksmith.client import CHANNEL_OPTIONS
from looksmith.errors import DeadlineExceeded, Unavailable, Unimplemented, error_from_rpc
from looksmith.v1 import adapter_pb2, generation_pb2

T = TypeVar("T")

PORT = 7400
Router = Annotated[
    str, typer.Option(envvar="LOOKSMITH_ROUTERS", help="Routers, HOST:PORT, separated by commas.", show_default=True)
]
Registry = Annotated[str, typer.Option(envvar="LOOKSMITH_REGISTRY", help="Registry, HOST:PORT.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Brand = Annotated[str, typer.Argument(help="Name of the brand.")]
AdapterName = Annotated[str, typer.Argument(help="BRAND/ADAPTER, BRAND/ADAPTER@VERSION or BRAND/ADAPTER:ALIAS.")]

ROUTER_DEFAULT = f"127.0.0.1:{PORT}"
REGISTRY_DEFAULT = f"127.0.0.1:{PORT + 1}"
TRACES_DEFAULT = f"http://127.0.0.1:{PORT + 3}"


#: What gRPC says about a connection that failed, and what to do about it; the first that fits.
_CAUSES = (
    ("Connection refused", "connection refused; is the stack up? `looksmith up` starts one"),
    ("HTTP/2", "what listens there is no gRPC server; check the address"),
    ("certificate has expired", "its certificate has expired"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS; unset LOOKSMITH_TLS_CA if that is as it should be"),
    ("Hostname Verification", "its certificate does not name this host; dial it by a name that is in it"),
    ("Tls handshake failed", "its certificate is not of a CA in LOOKSMITH_TLS_CA"),
    (
        "Socket closed",
        (
            "it hung up: it stopped, it wants TLS (LOOKSMITH_TLS_CA) or a client certificate that it trusts "
            "(LOOKSMITH_TLS_CERT), or it is no gRPC server"
        ),
    ),
    ("resolv", "no such host; write HOST:PORT"),
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command. A signal unwinds it, so that what it started is stopped with it; another one hurries that."""
    signals: list[int] = []

    async def until_told() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop(number: int) -> None:
            signals.append(number)
            if task:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                loop.add_signal_handler(number, stop, number)
        return await work

    with one_line_errors():
        try:
            return asyncio.run(until_told())
        except asyncio.CancelledError:
            raise Problem("stopped before it was done", 128 + signals[0]) from None  # the code that shells have for it


@dataclass(frozen=True)
class Shown:
    """What servers are shown, and how they are dialled: by TLS if there are credentials."""

    token: str = field(default="", repr=False)
    credentials: grpc.ChannelCredentials | None = None


def shown(environ: Mapping[str, str] = os.environ) -> Shown:
    """What LOOKSMITH_TOKEN and LOOKSMITH_TLS_* say: an option with a token would be seen by all users.

    Raises:
        Problem: a file can't be read, or a variable lacks its other half.
    """
    token = environ.get("LOOKSMITH_TOKEN", "")
    ca, *mine = (environ.get(f"LOOKSMITH_TLS_{name}") for name in ("CA", "CERT", "KEY"))
    if not ca:
        if any(mine):
            raise Problem("LOOKSMITH_TLS_CA: is required with LOOKSMITH_TLS_CERT and LOOKSMITH_TLS_KEY", 2)
        return Shown(token)
    try:
        return Shown(token, tls(Path(ca), *(Path(file) if file else None for file in mine)))
    except (OSError, ValueError) as error:
        raise Problem(f"LOOKSMITH_TLS_*: {error}", 2) from None


@asynccontextmanager
async def connected(address: str, *, as_who: Shown | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the first of ``address``; errors inside it say whether that could be reached at all.

    The server is shown ``as_who``, or else what the environment says.
    """
    first = address.partition(",")[0]
    who = as_who or shown()
    with reaching(first):
        metadata = bearer(who.token)
        async with dial(
            first, credentials=who.credentials, metadata=lambda: metadata, options=CHANNEL_OPTIONS
        ) as channel:
            yield channel


def to_registry(address: str) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    """A channel to a registry."""
    return connected(address)


@contextmanager
def reaching(addresses: str) -> Iterator[None]:
    """Names the servers that were tried where gRPC alone speaks; what a server of ours says has its own reason."""
    try:
        yield
    except Unavailable as error:
        if error.reason != Unavailable.reason:
            raise
        cause = next((known for words, known in _CAUSES if words in error.message), error.message)
        raise Unavailable(f"no answer from {addresses}: {cause}") from None
    except Unimplemented as error:
        if error.reason != Unimplemented.reason:
            raise
        raise Unimplemented(f"{addresses} does not serve this call: is it the right kind of server?") from None
    except DeadlineExceeded as error:
        if error.reason != DeadlineExceeded.reason:
            raise
        raise DeadlineExceeded(f"{addresses} did not answer in time") from None


async def answer(call: Awaitable[T]) -> T:
    """A unary call's answer, or its error as looksmith.errors has it."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON has it; zeros and empty lists too, so that a script finds the same keys every time."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def tier_name(tier: generation_pb2.Tier.ValueType) -> str | None:
    """As the glossary has it; None: no adapter is needed."""
    return generation_pb2.Tier.Name(tier).removeprefix("TIER_").lower() if tier else None


def parse_ref(text: str) -> adapter_pb2.AdapterRef:
    """BRAND/ADAPTER, BRAND/ADAPTER@3, BRAND/ADAPTER:staging or BRAND/ADAPTER@sha256:HEX."""
    brand, slash, rest = text.partition("/")
    if not slash:
        raise Problem(f"{text!r} names no adapter: write BRAND/ADAPTER", 2)
    adapter, at, version = rest.partition("@")
    if version.startswith("sha256:"):
        return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, digest=version.removeprefix("sha256:"))
    if at:
        if not re.fullmatch("[0-9]{1,9}", version):
            raise Problem(f"{version!r} is no version number", 2)
        return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, version=int(version))
    adapter, colon, alias = rest.partition(":")
    return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, alias=alias if colon else "production")
