"""Callers who ask for so many things in all: pictures mostly, some with previews, some given up, and publications.

Notes what failed; what the asking does to the system is for others to see.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress

import grpc

from benchmarks.brands import ADAPTER, FAMILY
from benchmarks.references import TRIPLES
from benchmarks.witness import Witness
from looksmith.client import Looksmith
from looksmith.errors import LooksmithError
from looksmith.lora.header import LENGTH_BYTES, METADATA
from looksmith.nouns import PRODUCTION, AdapterRef
from looksmith.v1 import generation_pb2 as pb
from services.registry.client import RegistryClient, measured
from services.registry.messages import PublishHeader

CALLERS = 8
WITHIN_S = 180.0
#: What is asked for, and how often beside the rest.
KINDS: Mapping[str, float] = {"picture": 85, "previews": 5, "left": 5, "publication": 2, "promotion": 3}


class Load:
    """At one router and its registry. ``files``: a brand's adapter, by the brand's name.

    Attributes:
        done: requests of each kind that have ended.
        failures: what was told of those that failed.
    """

    def __init__(self, *, registry: str, router: str, files: Mapping[str, bytes], seed: int) -> None:
        self._registry, self._router, self._files, self._seed = registry, router, files, seed
        self._brands: Sequence[str] = list(files)
        self._numbers = itertools.count()
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def run(self, requests: int, on_done: Callable[[], None]) -> None:
        """So many more, over connections of their own; ``on_done`` after each."""
        left = iter(range(requests))
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(self._registry))
            client = await stack.enter_async_context(Looksmith([self._router]))
            registry = RegistryClient(channel)

            async def caller() -> None:
                for _ in left:
                    await self._one(registry, client)
                    on_done()

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def _one(self, registry: RegistryClient, client: Looksmith) -> None:
        number = next(self._numbers)
        draws = random.Random(f"{self._seed}/{number}")
        (kind,) = draws.choices(list(KINDS), list(KINDS.values()))
        brand = draws.choice(self._brands)
        try:
            match kind:
                case "publication":
                    await self._publish(registry, brand, number)
                case "promotion":
                    await self._promote(registry, brand, draws)
                case "left":
                    await self._leave(client, brand, draws)
                case _:
                    await self._paint(client, brand, draws, previews=kind == "previews")
        except LooksmithError as error:
            self.failures[f"{kind}: {error.reason}: {error.message}"] += 1
        self.done[kind] += 1

    async def _paint(self, client: Looksmith, brand: str, draws: random.Random, *, previews: bool = False) -> None:
        """As a caller does who comes back when a refusal says so."""
        wanted = draws.choice(TRIPLES)
        asked = pb.GenerateRequest(
            brand=brand, prompt=wanted.prompt, seed=draws.randrange(1 << 32), steps=wanted.steps,
            report_steps=previews, preview_every=int(previews),
        )  # fmt: skip
        witness, ends_at = Witness(count=1), time.monotonic() + WITHIN_S
        while True:
            left = ends_at - time.monotonic()
            try:
                await client.paint(
                    asked, timeout_s=left, on_event=lambda message: witness.hear(message, time.monotonic())
                )
                break
            except LooksmithError as error:
                if error.retry_after_s is None or error.retry_after_s > left:
                    raise
                await asyncio.sleep(error.retry_after_s)
        witness.close()
        for fault, times in witness.faults.items():
            if times:
                self.failures[f"picture: {fault}"] += times

    async def _leave(self, client: Looksmith, brand: str, draws: random.Random) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(draws.uniform(0, 0.6)):
                await self._paint(client, brand, draws, previews=draws.random() < 0.5)

    async def _publish(self, registry: RegistryClient, brand: str, number: int) -> None:
        """The brand's own adapter once more, as another file."""
        file = noted(self._files[brand], str(number))
        digest, size = measured([file])
        header = PublishHeader(brand, ADAPTER, FAMILY, digest, size, request_id=f"soak-{self._seed}-{number}")
        await registry.publish(header, [file], deadline_s=WITHIN_S)

    async def _promote(self, registry: RegistryClient, brand: str, draws: random.Random) -> None:
        """Any version that there is."""
        newest = (await registry.resolve(AdapterRef(brand, ADAPTER, PRODUCTION))).version.version
        versions = (await registry.list_versions(brand, ADAPTER, page_size=1000)).items
        chosen = draws.choice([version.version for version in versions] or [newest])
        await registry.promote(AdapterRef(brand, ADAPTER, chosen))


def noted(file: bytes, note: str) -> bytes:
    """The same adapter with a note in its metadata, and so another digest."""
    end = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
    header = json.loads(file[LENGTH_BYTES:end])
    header[METADATA] = {**header.get(METADATA, {}), "note": note}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + file[end:]
