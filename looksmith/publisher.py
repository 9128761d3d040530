"""Publishes adapters: a safetensors file as it is, or a peft folder packed into one. The registry validates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import grpc

from looksmith.convert import lineage_to_pb
from looksmith.lora import pack
from looksmith.nouns import Lineage
from looksmith.uploading import CHUNK_BYTES, upload
from looksmith.v1 import registry_pb2 as pb
from looksmith.v1 import registry_pb2_grpc as rpc


def _pieces(path: Path, offset: int = 0) -> Iterator[bytes]:
    """What is stored, from a place on: the file's bytes, or those of the packed folder; the same on every machine."""
    if path.is_dir():
        for chunk in pack(path).chunks():
            for start in range(offset, len(chunk), CHUNK_BYTES):
                yield chunk[start : start + CHUNK_BYTES]
            offset = max(0, offset - len(chunk))
        return
    with path.open("rb") as stream:
        stream.seek(offset)
        while piece := stream.read(CHUNK_BYTES):
            yield piece


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
    lineage: Lineage | None = None,
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
        lineage: where the adapter comes from; what it leaves open, the file is asked for.
        request_id: repeat it to repeat the publication safely, and to go on with an upload that broke off. Empty: one
            is made up, for this call alone.
        on_progress: told (bytes sent, bytes in all).
        timeout_s: for the whole upload, in seconds; within it, what breaks off is gone on with.

    Raises:
        LooksmithError: the registry refused it; a bad file has one violation a finding.
        looksmith.lora.LoraError: the folder is no peft adapter.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in _pieces(path):
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
        lineage=lineage_to_pb(lineage or Lineage()),
    )

    return await upload(
        rpc.AdapterRegistryServiceStub(channel),
        header,
        partial(_pieces, path),
        on_progress=lambda sent: on_progress(sent, size),
        timeout_s=timeout_s,
    )
