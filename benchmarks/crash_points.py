"""Kills a registry before and after each thing that a write asks of the store, and looks at what is left.

What is written, and what must hold afterwards, is crash_paths'. Every point has a process and a brand of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.crash_paths import LARGE, PATHS, WritePath, collecting, faults_after, publishing_in_parts
from benchmarks.deadly_proxy import Side
from benchmarks.replicas import Replica, Replicas
from benchmarks.soundness import Look, look
from services.registry import layout
from services.registry.object_store import ObjectStore
from services.registry.seaweedfs import seaweedfs

#: Seconds that a call may take, and what is looked at after it.
POINT_S = 60.0
#: Settings with which garbage has to be waited for as short as registries allow.
SOON_GARBAGE = {"UPLOAD_EXPIRY_S": "1", "COMMIT_WINDOW_S": "2", "GC_GRACE_S": "6"}


@dataclass(frozen=True)
class Recording:
    """What a path asked of the store when nobody disturbed it.

    Attributes:
        path: whose call it was.
        remembered: whether the replica had made the brand ready itself, and so knew it; else another had.
        calls: requests, in order.
        before: what was shown before the call.
        after: and after it.
    """

    path: WritePath
    remembered: bool
    calls: tuple[str, ...]
    before: Look
    after: Look


class CrashPoints:
    """Recordings, and what becomes of a call that breaks off at one of their points."""

    def __init__(self, store: ObjectStore, replicas: Replicas) -> None:
        self._store, self._replicas = store, replicas
        self._brands = 0
        self._fresh: Replica | None = None

    async def record(self, path: WritePath, *, remembered: bool) -> Recording:
        """Runs a path to its end."""
        doer, other = await self._two()
        brand = self._brand()
        await path.ready((doer if remembered else other).client, brand)
        before = await look(other.client, brand)
        doer.proxy.note(heeded=_not_of_others(brand))
        await path.call(doer.client, brand)
        calls = tuple(call.replace(layout.everything_of(brand), "") for call in doer.proxy.noted)
        after = await look(other.client, brand)
        if before.faults or after.faults or not (path.tidies or after.pieces != before.pieces):
            raise RuntimeError(f"{path.name} goes wrong undisturbed: {before.faults} {after.faults}")
        await doer.close()
        return Recording(path, remembered, calls, before, after)

    async def faults_at(self, recording: Recording, number: int, side: Side) -> list[str]:
        """What is wrong after a process was killed at one of a recording's calls, counted from 1."""
        victim, other = await self._two()
        try:
            async with asyncio.timeout(POINT_S):
                return await self._faults(recording, number, side, victim=victim, other=other)
        except TimeoutError:
            return [f"it takes over {POINT_S:.0f} s"]
        finally:
            await victim.close()

    async def _faults(
        self, recording: Recording, number: int, side: Side, *, victim: Replica, other: Replica
    ) -> list[str]:
        path, brand = recording.path, self._brand()
        await path.ready((victim if recording.remembered else other).client, brand)
        victim.proxy.note(heeded=_not_of_others(brand), fatal=number, side=side, kill=victim.kill)
        call = asyncio.ensure_future(path.call(victim.client, brand))
        killed = asyncio.create_task(victim.proxy.killed.wait())
        await asyncio.wait((call, killed), return_when=asyncio.FIRST_COMPLETED)
        for task in (call, killed):
            task.cancel()
        await asyncio.gather(call, killed, return_exceptions=True)
        if not victim.proxy.reached:
            return [f"the call ended before it had asked for so much: {victim.proxy.noted}"]
        await victim.proxy.killed.wait()  # which the call may have noticed first
        return await faults_after(
            path,
            brand=brand,
            registry=other.client,
            store=self._store,
            before=recording.before,
            after=recording.after,
        )

    async def _two(self) -> tuple[Replica, Replica]:
        """One to be killed, and one to look on, which is the next to be killed."""
        doomed = self._fresh or await self._replicas.next()
        self._fresh = await self._replicas.next()
        return doomed, self._fresh

    def _brand(self) -> str:
        self._brands += 1
        return f"crash-{self._brands:04d}"


def _not_of_others(brand: str) -> Callable[[str], bool]:
    """Which keys may have to do with a brand: its own, and those that are no other's."""
    return lambda key: (
        key.startswith(layout.everything_of(brand)) or key == layout.BRANDS or not key.startswith(layout.BRANDS)
    )


async def crashes(folder: Path) -> dict[str, float]:
    """All points of all paths."""
    began = time.perf_counter()
    told = [
        await _all_points(folder / "calls", (*PATHS, publishing_in_parts(LARGE)), {}),
        await _all_points(folder / "garbage", (collecting(LARGE),), SOON_GARBAGE),
    ]
    points, wrong = (sum(numbers) for numbers in zip(*told, strict=True))
    return {
        "crash_points": float(points),
        "crash_wrong": float(wrong),
        "crash_minutes": (time.perf_counter() - began) / 60,
    }


async def _all_points(folder: Path, paths: Sequence[WritePath], settings: Mapping[str, str]) -> tuple[int, int]:
    """How many there are, and at how many something is wrong."""
    wrong = 0
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(seaweedfs(folder))
        objects = await stack.enter_async_context(store.client())
        replicas = await stack.enter_async_context(Replicas(store, folder / "replicas", settings=settings))
        points = CrashPoints(objects, replicas)
        recordings = [
            await points.record(path, remembered=remembered)
            for path in tqdm(paths, desc="recordings")
            for remembered in (True, False)
        ]
        for recording in recordings:
            where = "" if recording.remembered else ", at a replica that does not know the brand"
            tqdm.write(f"{recording.path.name}{where}: {len(recording.calls)} calls\n    {', '.join(recording.calls)}")
        everywhere = [
            (recording, number, side)
            for recording in recordings
            for number in range(1, len(recording.calls) + 1)
            for side in Side
        ]
        for recording, number, side in tqdm(everywhere, desc="crash points"):
            if faults := await points.faults_at(recording, number, side):
                wrong += 1
                tqdm.write(f"wrong: {recording.path.name}, {side} {recording.calls[number - 1]}: {'; '.join(faults)}")
    return len(everywhere), wrong
