"""Paints through Looksmith and keeps its promise of resuming: seeds and versions pinned, no image twice, none lost.

For callers in Python. The generated stubs in looksmith.v1 serve just as well; what they lack is only the resuming.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Self

import grpc

from looksmith.channel import bearer, dial
from looksmith.errors import DataLoss, DeadlineExceeded, LooksmithError, Unavailable, error_from_rpc
from looksmith.v1 import generation_pb2 as pb
from looksmith.v1 import generation_pb2_grpc as rpc

#: As the servers': a router that is stopped, or whose host is gone, is found within about 2 s.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
)
#: What a caller of Generate is given when it names no time of its own, in seconds.
DEFAULT_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Image:
    """One finished picture, its bytes checked against the digest that came with them."""

    index: int
    data: bytes
    seed: int
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Blocked:
    """One picture that was painted and withheld; ``reason`` as in ImageBlocked, such as "SAFETY_CHECKER"."""

    index: int
    seed: int
    reason: str


@dataclass(frozen=True)
class Painting:
    """All pictures of a request, in order, and what made them.

    ``placements`` are all that there were, in order: several where workers shared the images, or one took over.
    ``blocked`` are those that nobody may see, in order. Each picture that was asked for is there or in ``images``,
    which may be empty.
    """

    images: tuple[Image, ...]
    accepted: pb.Accepted
    placements: tuple[pb.Placed, ...]
    swapped: pb.Swapped
    finished: pb.Finished
    blocked: tuple[Blocked, ...] = ()

    @property
    def placed(self) -> pb.Placed:
        """The placement at the worker that finished, the last one."""
        theirs = [placed for placed in self.placements if placed.worker == self.finished.worker]
        return theirs[-1] if theirs else pb.Placed()


@dataclass
class _Progress:
    """What one request has got so far, whichever router it came from."""

    request: pb.GenerateRequest
    accepted: pb.Accepted | None = None
    placements: list[pb.Placed] = field(default_factory=list)
    swapped: pb.Swapped = field(default_factory=pb.Swapped)
    finished: pb.Finished | None = None
    parts: dict[int, bytearray] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    blocked: dict[int, Blocked] = field(default_factory=dict)

    def next_request(self) -> pb.GenerateRequest:
        """The request as another router must see it: pinned, without what is here already."""
        again = pb.GenerateRequest()
        again.CopyFrom(self.request)
        if self.accepted:
            again.seed = self.accepted.seed
            again.recipe = self.accepted.recipe
            if self.accepted.width and self.accepted.height:  # a router of an older release does not tell
                again.width, again.height = self.accepted.width, self.accepted.height
            del again.adapters[:]
            for pinned in self.accepted.adapters:
                again.adapters.add(adapter=pinned.adapter, version=pinned.version, weight=pinned.weight)
            again.no_adapters = not self.accepted.adapters
        settled = self.images.keys() | self.blocked.keys()
        again.images_done.extend(i for i in sorted(settled) if i not in again.images_done)
        self.parts.clear()
        return again

    def take(self, response: pb.GenerateResponse) -> None:
        """Notes one message.

        Raises:
            DataLoss: an image's bytes are not what its digest says.
        """
        match response.WhichOneof("event"):
            case "accepted":
                self.accepted = self.accepted or response.accepted
            case "placed":
                self.placements.append(response.placed)
            case "swapped":
                self.swapped = response.swapped
            case "chunk":
                self.parts.setdefault(response.chunk.image, bytearray()).extend(response.chunk.data)
            case "image_restarted":
                self.parts.pop(response.image_restarted.image, None)
            case "image_done":
                self._close(response.image_done)
            case "image_blocked":
                self._block(response.image_blocked)
            case "finished":
                self.finished = response.finished

    def _close(self, done: pb.ImageDone) -> None:
        data = bytes(self.parts.pop(done.image, b""))
        if not self.request.omit_image_bytes and hashlib.sha256(data).hexdigest() != done.sha256:
            raise DataLoss(f"image {done.image} arrived damaged", reason="DIGEST_MISMATCH")
        self.images[done.image] = Image(done.image, data, done.seed, done.sha256, done.width, done.height)

    def _block(self, blocked: pb.ImageBlocked) -> None:
        self.parts.pop(blocked.image, None)
        self.blocked[blocked.image] = Blocked(blocked.image, blocked.seed, blocked.reason)


class Looksmith:
    """A client of one or more routers. Use it as an async context manager, from one event loop.

    Args:
        routers: addresses, host:port, tried in turn; a request that one of them drops goes on at the next.
        token: what every call shows, where routers ask for one.
        credentials: to dial by TLS, as looksmith.channel.tls makes them; None: plaintext.
        max_resumes: how often one request may be resumed before its error is the caller's.
    """

    def __init__(
        self,
        routers: Sequence[str],
        *,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        max_resumes: int = 4,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        if not routers:
            raise ValueError("name at least one router")
        self._addresses = tuple(routers)
        self._shown, self._credentials = tuple(bearer(token)), credentials
        self._max_resumes = max_resumes
        self._new_id = new_id or (lambda: uuid.uuid4().hex)
        self._stack = AsyncExitStack()
        self._channels: list[grpc.aio.Channel] = []
        self._turn = 0

    async def __aenter__(self) -> Self:
        for address in self._addresses:
            channel = dial(address, credentials=self._credentials, options=CHANNEL_OPTIONS)
            self._channels.append(await self._stack.enter_async_context(channel))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()
        self._channels.clear()

    async def paint(
        self,
        request: pb.GenerateRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_event: Callable[[pb.GenerateResponse], None] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Painting:
        """Paints the whole request, resuming where a router or worker is lost on the way.

        Args:
            request: what to paint; an empty ``request_id`` is filled in.
            timeout_s: for everything together, in seconds.
            on_event: sees every message as it comes.
            metadata: sent with every attempt, such as a traceparent.

        Raises:
            LooksmithError: what the service answered, as in looksmith.errors; DeadlineExceeded after ``timeout_s``.
        """
        named = pb.GenerateRequest()
        named.CopyFrom(request)
        named.request_id = named.request_id or self._new_id()
        progress = _Progress(named)
        try:
            async with aclosing(self._resuming(progress, timeout_s=timeout_s, metadata=metadata)) as responses:
                async for response in responses:
                    if on_event:
                        on_event(response)
        except TimeoutError:
            raise DeadlineExceeded(f"not finished within {timeout_s:g} s") from None
        if not progress.accepted or not progress.finished:
            raise Unavailable("the stream ended before it was finished", reason="STREAM_CUT")
        return Painting(
            images=tuple(progress.images[i] for i in sorted(progress.images)),
            accepted=progress.accepted,
            placements=tuple(progress.placements),
            swapped=progress.swapped,
            finished=progress.finished,
            blocked=tuple(progress.blocked[i] for i in sorted(progress.blocked)),
        )

    async def _resuming(
        self, progress: _Progress, *, timeout_s: float, metadata: Sequence[tuple[str, str]]
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        async with asyncio.timeout(timeout_s) as limit:
            for resumed in range(self._max_resumes + 1):
                left = (limit.when() or 0) - asyncio.get_running_loop().time()
                call = self._stub().Generate(progress.next_request(), timeout=left, metadata=(*metadata, *self._shown))
                try:
                    async for response in call:
                        progress.take(response)
                        yield response
                except grpc.aio.AioRpcError as error:
                    problem = error_from_rpc(error)
                    if not self._may_resume(problem, progress) or resumed == self._max_resumes:
                        raise problem from None
                    self._turn += 1
                    await asyncio.sleep(problem.retry_after_s or 0.05 * 2**resumed)
                else:
                    return

    def _may_resume(self, problem: LooksmithError, progress: _Progress) -> bool:
        """Whether another try makes sense: the connection was lost, or the answer says when to come back."""
        if problem.retry_after_s is not None:
            return True
        lost = isinstance(problem, Unavailable) and problem.reason == Unavailable.reason
        return lost and (progress.accepted is not None or len(self._channels) > 1)

    def _stub(self) -> rpc.ImageGenerationServiceAsyncStub:
        return rpc.ImageGenerationServiceStub(self._channels[self._turn % len(self._channels)])
