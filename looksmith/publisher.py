"""Publishes adapters: a safetensors file as it is, or a peft folder packed into one. The registry validates."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import grpc

from looksmith.errors import error_from_rpc
from looksmith.lora import pack
from looksmith.v1 import registry_pb2 as pb
from looksmith.v1 import registry_pb2_grpc as rpc

CHUNK_BYTES = 256 * 1024

#: What grpc.aio makes of an answer that arrives while a chunk is being written, as early refusals do: the write fails,
#: and the status is overwritten with INTERNAL of this text (grpc/grpc#36066, open; one in 170 refusals on 1.85). A
#: publication can be repeated safely, and so it is; each try has the whole deadline.
ANSWER_LOST, UPLOAD_TRIES = "Internal error from Core", 4


def _chunks(path: Path) -> Iterator[bytes]:
    """What is stored: the file's bytes, or those of the packed folder; the same on every machine."""
    if path.is_dir():
        yield from pack(path).chunks()
        return
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


async def publish(
    channel: grpc.aio.Channel,
    path: Path,
    *,
    brand: str,
    adapter: str,
    family: str,
    base_digest: str = "",
    aliases: Sequence[str] = (),
    publisher: str = "",
    note: str = "",
    labels: Mapping[str, str] | None = None,
    request_id: str = "",
    on_progress: Callable[[int, int], None] = lambda _sent, _size: None,
    timeout_s: float = 600.0,
) -> pb.PublishAdapterResponse:
    """Sends one adapter to the registry.

    Args:
        channel: to a registry.
        path: a safetensors file or a peft folder.
        brand: name of the brand, which must have a record.
        adapter: name of the adapter; its first version creates it.
        family: family of the base it was trained for.
        base_digest: digest of that very base, where known.
        aliases: names that shall point at the new version at once.
        publisher: who publishes.
        note: free text.
        labels: free labels.
        request_id: repeat it to repeat the publication safely.
        on_progress: told (bytes sent, bytes in all).
        timeout_s: for the whole upload, in seconds.

    Raises:
        LooksmithError: the registry refused it; a bad file has one violation a finding.
        looksmith.lora.LoraError: the folder is no peft adapter.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(path):
        digest.update(chunk)
        size += len(chunk)
    header = pb.PublishHeader(
        brand=brand,
        adapter=adapter,
        family=family,
        base_digest=base_digest,
        digest=digest.hexdigest(),
        size_bytes=size,
        request_id=request_id,
        aliases=aliases,
        publisher=publisher,
        note=note,
        labels=labels or {},
    )

    async def messages() -> AsyncIterator[pb.PublishAdapterRequest]:
        yield pb.PublishAdapterRequest(header=header)
        sent = 0
        for chunk in _chunks(path):
            for start in range(0, len(chunk), CHUNK_BYTES):
                part = chunk[start : start + CHUNK_BYTES]
                yield pb.PublishAdapterRequest(chunk=part)
                sent += len(part)
                on_progress(sent, size)

    stub = rpc.AdapterRegistryServiceStub(channel)
    return await until_answered(lambda: stub.PublishAdapter(messages(), timeout=timeout_s))


async def until_answered(
    send: Callable[[], Awaitable[pb.PublishAdapterResponse]],
) -> pb.PublishAdapterResponse:
    """What an upload is answered; it is sent again where the answer was lost.

    Raises:
        LooksmithError: what the registry answered.
    """
    for tries_left in reversed(range(UPLOAD_TRIES)):
        try:
            return await send()
        except grpc.aio.AioRpcError as error:
            if error.details() != ANSWER_LOST or not tries_left:
                raise error_from_rpc(error) from None
    raise AssertionError("the last try returns or raises")
