"""A registry that ends at any call of its store leaves nothing half done, and whoever asks again gets what they wanted.

The same ways to write, and the same look at what is left, as benchmarks.crash_points has for killed processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest

from benchmarks.crash_paths import PATHS, WritePath, collecting, faults_after, publishing_in_parts
from benchmarks.deadly_proxy import Side
from benchmarks.soundness import Look, look, unnamed
from services.registry.blobs import PART_BYTES
from services.registry.client import FakeRegistryClient
from services.registry.commit_log import Surroundings
from services.registry.core import assemble
from services.registry.fake_client import TrustingJudge
from services.registry.object_store import InMemoryObjectStore, ObjectStore
from tests.unit.registry.parts import FaultyStore

BRAND = "acme"
SMALL_PART_BYTES = 1000  # of which a file has two

T = TypeVar("T")


class MortalStore(FaultyStore):
    """A store whose caller ends at one of its calls: this never returns, and no other is made any more."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.ended, self.buried = asyncio.Event(), asyncio.Event()
        self._fatal, self._side = 0, Side.BEFORE

    def note(self, *, fatal: int = 0, side: Side = Side.BEFORE) -> None:
        """Begins to number calls anew, from 1, of which ``fatal`` is the last."""
        self.calls, self._fatal, self._side = [], fatal, side

    async def _around(self, name: str, call: Awaitable[T]) -> T:
        self.calls.append(name)
        last = len(self.calls) == self._fatal
        if self.ended.is_set() or (last and self._side is Side.BEFORE):
            await self._end(call)
        result = await call
        if last:
            await self._end()
        return result

    async def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        await self._around("stream", asyncio.sleep(0))
        async for piece in self.inner.stream(key, offset=offset, limit=limit):
            yield piece

    async def _end(self, unmade: object = None) -> None:
        if asyncio.iscoroutine(unmade):
            unmade.close()
        self.ended.set()
        await self.buried.wait()
        raise asyncio.CancelledError  # what tidies up while the caller is taken apart gets no further either


@dataclass(frozen=True)
class Recording:
    calls: int
    before: Look
    after: Look


def replicas(part_bytes: int) -> tuple[InMemoryObjectStore, MortalStore, FakeRegistryClient, FakeRegistryClient]:
    """A store, one of two registries on it with its way there, and the other."""

    def on(store: ObjectStore) -> FakeRegistryClient:
        around = Surroundings(writer="replica")
        core = assemble(
            store=store, judging=TrustingJudge, around=around, head_max_age_s=0, gc_grace_s=0, part_bytes=part_bytes
        )
        return FakeRegistryClient(core=core)

    objects = InMemoryObjectStore()
    mortal = MortalStore(objects)
    return objects, mortal, on(mortal), on(objects)


async def recorded(path: WritePath, *, remembered: bool, part_bytes: int = PART_BYTES) -> Recording:
    objects, mortal, doer, other = replicas(part_bytes)
    await path.ready(doer if remembered else other, BRAND)
    before = await look(other, BRAND)
    mortal.note()
    await path.call(doer, BRAND)
    after = await look(other, BRAND)
    assert not (path.tidies and await unnamed(objects, BRAND))
    return Recording(len(mortal.calls), before, after)


async def faults_at(
    path: WritePath,
    recording: Recording,
    number: int,
    side: Side,
    *,
    remembered: bool,
    part_bytes: int = PART_BYTES,
) -> list[str]:
    objects, mortal, victim, other = replicas(part_bytes)
    await path.ready(victim if remembered else other, BRAND)
    mortal.note(fatal=number, side=side)
    call = asyncio.ensure_future(path.call(victim, BRAND))
    ended = asyncio.create_task(mortal.ended.wait())
    await asyncio.wait((call, ended), return_when=asyncio.FIRST_COMPLETED)
    mortal.buried.set()
    for task in (call, ended):
        task.cancel()
    await asyncio.gather(call, ended, return_exceptions=True)
    if not mortal.ended.is_set():
        return [f"the call ended before it had asked for so much: {mortal.calls}"]
    return await faults_after(
        path, brand=BRAND, registry=other, store=objects, before=recording.before, after=recording.after
    )


async def faults_anywhere(
    path: WritePath, *, remembered: bool, part_bytes: int = PART_BYTES
) -> dict[tuple[int, Side], list[str]]:
    recording = await recorded(path, remembered=remembered, part_bytes=part_bytes)
    assert recording.calls >= 2
    assert recording.before.faults == recording.after.faults == ()
    assert path.tidies or recording.before.pieces != recording.after.pieces
    found = {
        (number, side): await faults_at(path, recording, number, side, remembered=remembered, part_bytes=part_bytes)
        for number in range(1, recording.calls + 1)
        for side in Side
    }
    return {point: faults for point, faults in found.items() if faults}


@pytest.mark.parametrize("remembered", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
async def test_a_registry_that_ends_at_any_call_of_its_store_leaves_the_old_state_or_the_new(
    path: WritePath,
    remembered: bool,  # noqa: FBT001  # a parameter
) -> None:
    assert await faults_anywhere(path, remembered=remembered) == {}


@pytest.mark.parametrize("remembered", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("path", [publishing_in_parts(2), collecting(2)], ids=lambda path: path.name)
async def test_nor_does_one_that_ends_among_the_parts_of_a_file(
    path: WritePath,
    remembered: bool,  # noqa: FBT001  # a parameter
) -> None:
    assert await faults_anywhere(path, remembered=remembered, part_bytes=SMALL_PART_BYTES) == {}


async def test_what_does_not_bear_repeating_is_noticed() -> None:
    rollback = next(path for path in PATHS if path.name == "rollback")
    blindly = replace(rollback, again=None)
    recording = await recorded(blindly, remembered=True)
    faults = await faults_anywhere(blindly, remembered=True)
    assert list(faults) == [(recording.calls, Side.AFTER)]
    assert "repeating the call ends in" in str(faults)


async def test_a_call_that_ends_sooner_than_recorded_is_noticed() -> None:
    recording = await recorded(PATHS[0], remembered=True)
    (fault,) = await faults_at(PATHS[0], recording, recording.calls + 1, Side.BEFORE, remembered=True)
    assert fault.startswith("the call ended before")
