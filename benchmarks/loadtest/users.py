"""Users who ask for one picture after another without a pause, each as any caller does, through looksmith.client.

Keeps what each request came to and every different picture; whether that is well, verdict.py says.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.references import TRIPLES
from benchmarks.witness import Witness
from looksmith.cli.calls import shown, tier_name
from looksmith.client import Looksmith, Painting
from looksmith.errors import LooksmithError
from looksmith.v1 import generation_pb2 as pb

#: How much more often the first brand is asked for than the second, and so on: Zipf's exponent.
ZIPF = 1.0
#: After a failure, lest a system that refuses everything be asked without a pause.
AFTER_FAILURE_S = 0.25


@dataclass(eq=False)
class Request:
    """One request of one user; times in seconds by ``time.monotonic``."""

    brand: str
    triple: int
    began: float
    ended: float = 0.0
    error: str = ""  # empty: the whole answer was there in time
    faults: Counter[str] = field(default_factory=Counter)
    retries: int = 0  # after a refusal that said when to come back, and that the client did not mend
    resumed: int = 0  # by the client, at another router
    attempts: int = 1  # at workers
    picture: str = ""  # its digest
    digests: tuple[str, ...] = ()  # of the adapters, as the reply names them
    seed: int = 0
    worker: str = ""
    tier: str = ""
    visible_s: float = 0.0
    denoise_s: float = 0.0
    stale: bool = False

    @property
    def took_s(self) -> float:
        return self.ended - self.began


class Users:
    """``routers``: each user asks them in an order of its own. ``brands``: the first is asked for most often."""

    def __init__(
        self, count: int, routers: Sequence[str], brands: Sequence[str], *, timeout_s: float, seed: int
    ) -> None:
        self._count, self._routers, self._brands = count, tuple(routers), tuple(brands)
        self._timeout_s, self._seed = timeout_s, seed
        self._weights = [1 / rank**ZIPF for rank in range(1, len(brands) + 1)]
        self._stopping = asyncio.Event()
        self.requests: list[Request] = []  # that have ended, in that order
        self.pictures: dict[str, bytes] = {}  # as files, by digest

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """They ask from entry to exit; what is under way then is heard to its end."""
        self._stopping.clear()
        tasks = [asyncio.create_task(self._user(number)) for number in range(self._count)]
        try:
            yield
        finally:
            self._stopping.set()
            await asyncio.gather(*tasks)

    async def every_brand(self) -> None:
        """Asks for each once, so that no worker sees it for the first time while something is measured."""
        left = iter(self._brands)

        async def one(number: int) -> None:
            async with self._client(number) as client:
                for brand in left:
                    await self._ask(client, brand, triple=0)

        await asyncio.gather(*map(one, range(self._count)))

    async def _user(self, number: int) -> None:
        draws = random.Random(f"{self._seed}/{number}/{len(self.requests)}")
        async with self._client(number) as client:
            while not self._stopping.is_set():
                (brand,) = draws.choices(self._brands, self._weights)
                request = await self._ask(client, brand, triple=draws.randrange(len(TRIPLES)))
                if request.error:
                    await asyncio.sleep(AFTER_FAILURE_S)

    @asynccontextmanager
    async def _client(self, number: int) -> AsyncIterator[Looksmith]:
        first = number % len(self._routers)
        async with AsyncExitStack() as stack:
            routers = [*self._routers[first:], *self._routers[:first]]
            who = shown()
            yield await stack.enter_async_context(Looksmith(routers, token=who.token, credentials=who.credentials))

    async def _ask(self, client: Looksmith, brand: str, *, triple: int) -> Request:
        wanted = TRIPLES[triple]
        request = Request(brand, triple, began=time.monotonic())
        asked = pb.GenerateRequest(brand=brand, prompt=wanted.prompt, seed=wanted.seed, steps=wanted.steps)
        witness = Witness(count=1)
        try:
            painting = await self._retrying(client, asked, request, witness)
            witness.close()
            self._note(request, painting)
        except LooksmithError as error:
            request.error = f"{error.reason}: {error.message}"
        request.ended = time.monotonic()
        request.faults = +witness.faults
        request.resumed = max(0, witness.accepted - 1)
        request.attempts = witness.attempts
        self.requests.append(request)
        return request

    async def _retrying(
        self, client: Looksmith, asked: pb.GenerateRequest, request: Request, witness: Witness
    ) -> Painting:
        """As a caller does who waits for as long as a refusal says, and gives up when its time is over."""
        for retries in itertools.count():
            request.retries = retries
            left = request.began + self._timeout_s - time.monotonic()
            try:
                return await client.paint(
                    asked, timeout_s=left, on_event=lambda message: witness.hear(message, time.monotonic())
                )
            except LooksmithError as error:
                if error.retry_after_s is None or error.retry_after_s >= left:
                    raise
                await asyncio.sleep(error.retry_after_s)
        raise AssertionError("counts without end")

    def _note(self, request: Request, painting: Painting) -> None:
        finished = painting.finished
        for image in painting.images:
            request.picture = hashlib.sha256(image.data).hexdigest()
            self.pictures.setdefault(request.picture, image.data)
            request.seed = image.seed
        request.digests = tuple(adapter.digest for adapter in finished.adapters)
        request.worker = finished.worker
        request.tier = tier_name(painting.swapped.tier) or ""
        request.visible_s = finished.timings.swap_visible.ToNanoseconds() / 1e9
        request.denoise_s = finished.timings.denoise.ToNanoseconds() / 1e9
        request.stale = painting.accepted.HasField("stale_since")
