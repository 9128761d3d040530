"""What the commands share: where servers are, how a reference is written, one call and its errors."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from looksmith.cli.terminal import Problem, one_line_errors
from looksmith.client import CHANNEL_OPTIONS
from looksmith.errors import error_from_rpc
from looksmith.v1 import adapter_pb2

T = TypeVar("T")

PORT = 7400
Router = Annotated[
    str, typer.Option(envvar="LOOKSMITH_ROUTERS", help="Routers, host:port, separated by commas.", show_default=True)
]
Registry = Annotated[str, typer.Option(envvar="LOOKSMITH_REGISTRY", help="Registry, host:port.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Brand = Annotated[str, typer.Argument(help="Name of the brand.")]
AdapterName = Annotated[str, typer.Argument(help="BRAND/ADAPTER, then @VERSION or :ALIAS where one is meant.")]

ROUTER_DEFAULT = f"127.0.0.1:{PORT}"
REGISTRY_DEFAULT = f"127.0.0.1:{PORT + 1}"
TRACES_DEFAULT = f"http://127.0.0.1:{PORT + 3}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command; SIGTERM unwinds it as Ctrl-C does, so that what it started is stopped with it."""

    async def until_told() -> T:
        task = asyncio.current_task()
        if task:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    with one_line_errors():
        return asyncio.run(until_told())


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address.partition(",")[0], options=CHANNEL_OPTIONS) as channel:
        yield channel


async def answer(call: Awaitable[T]) -> T:
    """A unary call's answer, or its error as looksmith.errors has it."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from None


def as_dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def parse_ref(text: str) -> adapter_pb2.AdapterRef:
    """BRAND/ADAPTER, BRAND/ADAPTER@3, BRAND/ADAPTER:staging or BRAND/ADAPTER@sha256:HEX."""
    brand, slash, rest = text.partition("/")
    if not slash:
        raise Problem(f"{text!r} names no adapter: write BRAND/ADAPTER", 2)
    adapter, at, version = rest.partition("@")
    if version.startswith("sha256:"):
        return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, digest=version.removeprefix("sha256:"))
    if at:
        if not version.isdigit():
            raise Problem(f"{version!r} is no version number", 2)
        return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, version=int(version))
    adapter, colon, alias = rest.partition(":")
    return adapter_pb2.AdapterRef(brand=brand, adapter=adapter, alias=alias if colon else "production")
