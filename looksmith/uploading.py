"""Sends a file to a registry, and goes on where a connection broke off, at the same replica or another.

Knows the calls and when to make them again; nothing about where a file comes from or what is in it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import grpc

from looksmith.errors import LooksmithError, error_from_rpc
from looksmith.v1 import registry_pb2 as pb
from looksmith.v1 import registry_pb2_grpc as rpc

#: Bytes that one message holds: the most that a registry takes.
CHUNK_BYTES = 1 << 20
#: Of a file up to this size a registry keeps nothing that could be gone on with.
SENT_AT_ONCE_BYTES = 8 << 20
#: Tries in a row that get no further before the last error is the caller's, and the pauses between them, in seconds:
#: a replica that was killed is back, or its address another's, within six.
TRIES, FIRST_PAUSE_S, LONGEST_PAUSE_S = 6, 0.2, 4.0
#: Seconds from one question about what a registry holds to the next. It stores what it had received before the
#: connection broke, which takes a moment; the answer counts once it is the same twice.
SETTLES_S, QUESTIONS = 0.2, 20
#: Seconds that such a question may take.
QUESTION_S = 10.0

#: What grpc.aio makes of an answer that arrives while a chunk is being written, as early refusals do: the write fails,
#: and the status is overwritten with INTERNAL of this text (grpc/grpc#36066, open; one in 170 refusals on 1.85).
ANSWER_LOST = "Internal error from Core"
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_SEND_AGAIN = ("CHUNK_CORRUPT", "UPLOAD_OFFSET")
_NOTHING_HELD = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)

#: The bytes of a file from a place on, at most CHUNK_BYTES at a time.
Pieces = Callable[[int], Iterator[bytes]]


async def upload(
    stub: rpc.AdapterRegistryServiceAsyncStub,
    header: pb.PublishHeader,
    pieces: Pieces,
    *,
    on_progress: Callable[[int], None] = lambda _sent: None,
    timeout_s: float,
) -> pb.PublishAdapterResponse:
    """Publishes a file. What breaks off is gone on with, and what was lost asked for again.

    Args:
        stub: of a registry.
        header: what the file is. With a request_id, an upload of that name that broke off earlier is gone on with.
        pieces: the file, from any place on and as often as need be.
        on_progress: told how much of the file the registry has been sent.
        timeout_s: for everything together, in seconds.

    Raises:
        LooksmithError: what the registry answered, or that it could not be reached.
    """
    sending = _Upload(stub, header, pieces, on_progress, ends=time.monotonic() + timeout_s)
    return await sending.run()


class _Upload:
    def __init__(
        self,
        stub: rpc.AdapterRegistryServiceAsyncStub,
        header: pb.PublishHeader,
        pieces: Pieces,
        on_progress: Callable[[int], None],
        *,
        ends: float,
    ) -> None:
        self._stub, self._pieces, self._on_progress, self._ends = stub, pieces, on_progress, ends
        self._sent = 0  # of the file, in this call or an earlier one
        self._may_have_begun = bool(header.request_id)
        self._header = pb.PublishHeader()
        self._header.CopyFrom(header)
        self._header.request_id = header.request_id or uuid.uuid4().hex
        self._header.offset = 0  # until the registry tells another

    async def run(self) -> pb.PublishAdapterResponse:
        failures, ask = 0, self._may_have_begun
        while True:
            try:
                if ask and self._header.size_bytes > SENT_AT_ONCE_BYTES:
                    before, self._header.offset = self._header.offset, await self._held()
                    failures = 0 if self._header.offset > before else failures
                return await self._stub.PublishAdapter(self._messages(), timeout=self._left())
            except grpc.aio.AioRpcError as rpc_error:
                error, ask = error_from_rpc(rpc_error), True
            failures += 1
            pause = max(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1)), error.retry_after_s or 0)
            if failures == TRIES or not _may_succeed(error) or self._left() < pause:
                raise error
            await asyncio.sleep(pause)

    def _left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()

    async def _messages(self) -> AsyncIterator[pb.PublishAdapterRequest]:
        yield pb.PublishAdapterRequest(header=self._header)
        self._sent = self._header.offset
        pieces = self._pieces(self._sent)

        def following() -> pb.PublishAdapterRequest | None:
            piece = next(pieces, b"")
            return pb.PublishAdapterRequest(chunk=piece, crc32=zlib.crc32(piece)) if piece else None

        while message := await asyncio.to_thread(following):
            yield message
            self._sent += len(message.chunk)
            self._on_progress(self._sent)

    async def _held(self) -> int:
        """Bytes from the file's start that the registry holds, once it has stored what it received."""
        before, held = -1, await self._ask()
        for _ in range(QUESTIONS):
            if held in (before, self._sent):
                break
            await asyncio.sleep(SETTLES_S)
            before, held = held, await self._ask()
        return held

    async def _ask(self) -> int:
        request = pb.GetUploadRequest(brand=self._header.brand, request_id=self._header.request_id)
        try:
            return (await self._stub.GetUpload(request, timeout=min(QUESTION_S, self._left()))).received_bytes
        except grpc.aio.AioRpcError as error:
            if error.code() in _NOTHING_HELD:
                return 0
            raise


def _may_succeed(error: LooksmithError) -> bool:
    """Whether a publication that failed so may succeed when it is repeated."""
    return error.code in _BROKEN or error.message == ANSWER_LOST or error.reason in _SEND_AGAIN
