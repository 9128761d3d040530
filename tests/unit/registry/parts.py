"""Small registries, files and faults for the tests of the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar

from looksmith.lora import Limits
from looksmith.nouns import Brand
from services.registry.blobs import PART_BYTES
from services.registry.commit_log import Surroundings
from services.registry.content import measured
from services.registry.core import Core, assemble
from services.registry.errors import StoreUnavailable
from services.registry.judging import judging
from services.registry.messages import Published, PublishHeader
from services.registry.object_store import Creation, InMemoryObjectStore, ObjectStore, StoredObject
from tests.unit.looksmith.lora.lora_files import TO_K, TO_Q, diffusers, safetensors, tiny_table

TABLE = tiny_table()

T = TypeVar("T")


def lora_file(note: str = "", modules: tuple[str, ...] = (TO_Q, TO_K)) -> bytes:
    """A good adapter for the family "tiny"; another note makes another file."""
    return safetensors(diffusers(TABLE, {f"unet.{module}": 2 for module in modules}), {"note": note})


def header_for(data: bytes, **fields: object) -> PublishHeader:
    digest, size = measured([data])
    given: dict[str, object] = {
        "brand": "acme", "adapter": "style", "family": "tiny", "digest": digest, "size_bytes": size, **fields,
    }  # fmt: skip
    return PublishHeader(**given)  # type: ignore[arg-type]  # a factory passes on what a test gives


class Clock:
    """Time that only tests move: wall and monotonic seconds alike."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def surroundings(clock: Clock | None = None, *, seed: int = 0) -> Surroundings:
    clock = clock or Clock()
    return Surroundings(
        writer=f"replica-{seed}",
        wall_clock=clock.wall,
        clock=clock.monotonic,
        sleep=clock.sleep,
        random=Random(seed),
    )


def a_core(
    store: ObjectStore,
    *,
    clock: Clock | None = None,
    seed: int = 0,
    max_age_s: float = 0,
    part_bytes: int = PART_BYTES,
) -> Core:
    return assemble(
        store=store,
        judging=judging({"tiny": TABLE, "other": TABLE}, Limits(file_bytes=1 << 20)),
        around=surroundings(clock, seed=seed),
        head_max_age_s=max_age_s,
        part_bytes=part_bytes,
    )


async def chunks(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def publish(core: Core, data: bytes, **fields: object) -> Published:
    return await core.publisher.publish(header_for(data, **fields), chunks(data))


async def a_core_with_brand(store: ObjectStore | None = None, **options: object) -> Core:
    core = a_core(store or InMemoryObjectStore(), **options)  # type: ignore[arg-type]  # as above
    await core.brands.put(Brand("acme"))
    return core


class FaultyStore:
    """A store that lets a test step in around every call.

    ``before`` and ``after`` get the name of the method and the number of the call, from 1; what they raise, the caller
    gets. A create whose ``after`` raises has happened, and answers UNKNOWN, as a real store's would.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.before: Callable[[str, int], None] = lambda name, number: None
        self.after: Callable[[str, int], None] = lambda name, number: None

    async def _around(self, name: str, call: Awaitable[T]) -> T:
        self.calls.append(name)
        number = len(self.calls)
        try:
            self.before(name, number)
        except BaseException:
            close = getattr(call, "close", None)
            if close:
                close()
            raise
        result = await call
        self.after(name, number)
        return result

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        try:
            return await self._around("create_if_absent", self.inner.create_if_absent(key, data))
        except LostAnswer:
            return Creation.UNKNOWN

    async def put(self, key: str, data: bytes | memoryview) -> None:
        await self._around("put", self.inner.put(key, data))

    async def get(self, key: str) -> bytes | None:
        return await self._around("get", self.inner.get(key))

    async def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        async for piece in self.inner.stream(key, offset=offset, limit=limit):
            yield piece

    async def size(self, key: str) -> int | None:
        return await self._around("size", self.inner.size(key))

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        return await self._around("keys", self.inner.keys(prefix, start_after=start_after, limit=limit))

    async def listing(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[StoredObject]:
        return await self._around("listing", self.inner.listing(prefix, start_after=start_after, limit=limit))

    async def folders(self, prefix: str) -> list[str]:
        return await self._around("folders", self.inner.folders(prefix))

    async def delete(self, key: str) -> None:
        await self._around("delete", self.inner.delete(key))


class LostAnswer(StoreUnavailable):
    """The call may have happened; nobody knows."""

    def __init__(self) -> None:
        super().__init__("the answer was lost")
