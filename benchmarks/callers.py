"""Callers that ask without end, and the moment at which somebody strikes: in the middle of what one of them watches.

Strikes happen while a message is heard, not a turn of the event loop later. What is struck is its user's business.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.witness import Witness
from looksmith.client import Looksmith
from looksmith.errors import LooksmithError
from looksmith.v1 import generation_pb2 as pb
from services.gpu_worker.generation import CHUNK_BYTES

#: Whether it is now, by the message that a caller has just heard.
Moment = Callable[[pb.GenerateResponse, "Asked"], bool]
STRIKES_WITHIN_S, ENDS_WITHIN_S = 60.0, 120.0


@dataclass(eq=False)
class Asked:
    """One request on its way."""

    request: pb.GenerateRequest
    routers: tuple[str, ...]  # the first is asked first
    trace: str
    witness: Witness
    began: float
    took_s: float = 0.0
    gpu_seconds: float = 0.0
    error: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)


def mid_denoise(message: pb.GenerateResponse, asked: Asked) -> bool:
    """Some steps of an image are done, and some are not."""
    step = message.step
    return message.HasField("step") and step.step < step.steps and bool(asked.witness.worker_of(step.image))


def mid_image(message: pb.GenerateResponse, asked: Asked) -> bool:  # noqa: ARG001  # a Moment
    """A caller holds the first chunk of an image that has more."""
    return message.HasField("chunk") and message.chunk.offset == 0 and len(message.chunk.data) == CHUNK_BYTES


def image_in(message: pb.GenerateResponse) -> int:
    """What a message of either moment is about."""
    return message.step.image if message.HasField("step") else message.chunk.image


@dataclass(eq=False)
class _Strike:
    moment: Moment
    act: Callable[[pb.GenerateResponse, Asked], None]
    struck: asyncio.Future[Asked]


class Callers:
    """``orders``: for each caller the routers that it asks, in turn. ``every_s``: how often; 0: at once again."""

    def __init__(
        self,
        orders: Sequence[tuple[str, ...]],
        requests: Iterator[pb.GenerateRequest],
        *,
        max_resumes: int,
        every_s: float = 0.0,
    ) -> None:
        self._orders, self._requests, self._max_resumes, self._every_s = orders, requests, max_resumes, every_s
        self.asked: list[Asked] = []
        self.painted: Counter[str] = Counter()  # images by worker
        self._strikes: list[_Strike] = []
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """They ask from entry to exit; what is under way then is heard to its end."""
        tasks = [asyncio.create_task(self._call(number, order)) for number, order in enumerate(self._orders)]
        try:
            yield
        finally:
            self._stopping.set()
            await asyncio.gather(*tasks)

    async def strike(self, moment: Moment, act: Callable[[pb.GenerateResponse, Asked], None]) -> Asked:
        """Calls ``act`` at the next such moment of any caller.

        Returns:
            The request that was struck.

        Raises:
            TimeoutError: there was no such moment.
        """
        strike = _Strike(moment, act, asyncio.get_running_loop().create_future())
        self._strikes.append(strike)
        async with asyncio.timeout(STRIKES_WITHIN_S):
            return await strike.struck

    def faults(self) -> Counter[str]:
        """Of all requests that have ended."""
        found: Counter[str] = Counter()
        for asked in self.asked:
            found += asked.witness.faults
            if asked.error:
                found["errors"] += 1
        return found

    async def _call(self, number: int, order: tuple[str, ...]) -> None:
        next_at = time.perf_counter() + self._every_s * number / len(self._orders)
        while not self._stopping.is_set():
            wait = next_at - time.perf_counter() if self._every_s else 0.0
            if wait > 0:
                await asyncio.sleep(wait)
            next_at += self._every_s
            await self.ask(next(self._requests), order)

    async def ask(self, request: pb.GenerateRequest, order: tuple[str, ...]) -> Asked:
        """Asks once; an error is noted, not raised."""
        asked = Asked(request, order, secrets.token_hex(16), Witness(max(1, request.count)), time.perf_counter())
        self.asked.append(asked)
        traceparent = f"00-{asked.trace}-{secrets.token_hex(8)}-01"
        try:
            async with Looksmith(order, max_resumes=self._max_resumes) as client:
                painting = await client.paint(
                    request,
                    timeout_s=ENDS_WITHIN_S,
                    on_event=lambda message: self._hear(message, asked),
                    metadata=[("traceparent", traceparent)],
                )
            asked.gpu_seconds = painting.finished.gpu_seconds
            asked.witness.close()
        except LooksmithError as error:
            asked.error = f"{error.reason}: {error.message}"
            await asyncio.sleep(0.1)  # a fleet that refuses everything would be asked without a pause
        asked.took_s = time.perf_counter() - asked.began
        asked.over.set()
        return asked

    def _hear(self, message: pb.GenerateResponse, asked: Asked) -> None:
        asked.witness.hear(message, time.perf_counter())
        if message.HasField("image_done"):
            self.painted[asked.witness.worker_of(message.image_done.image)] += 1
        for strike in list(self._strikes):
            if strike.moment(message, asked):
                self._strikes.remove(strike)
                strike.act(message, asked)
                strike.struck.set_result(asked)


def numbered(make: Callable[[int], pb.GenerateRequest]) -> Iterator[pb.GenerateRequest]:
    """Requests without end."""
    return map(make, itertools.count())
