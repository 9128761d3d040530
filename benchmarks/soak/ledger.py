"""What processes have: every second while they work, and more closely when they rest.

Looks, and judges nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

from benchmarks.observed_stack import Observed, ObservedStack
from benchmarks.process_samples import sample
from services.registry import layout
from services.registry.object_store import listing_of

EVERY_S = 1.0
#: Looks at processes that rest, and seconds between them: of each figure the least counts, since servers are never
#: quite idle.
LOOKS, APART_S = 6, 0.5
#: Seconds for which processes are left alone before.
RESTS_S = 3.0
STORE = "store"


@dataclass(frozen=True)
class Rest:
    """A process when nothing is asked of it, with those that it has started.

    ``uploads`` and ``leases``: objects in memory for as long as something is under way.
    """

    memory: int
    descriptors: int
    threads: int
    tasks: int = 0
    spans: int = 0
    uploads: int = 0
    leases: int = 0


@dataclass
class Ledger:
    """``memory``: by process, after how many requests it had how many bytes of its own."""

    memory: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    rests: list[dict[str, Rest]] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)  # in the store, at each rest

    @asynccontextmanager
    async def kept(self, stack: ObservedStack, requests: Callable[[], int]) -> AsyncIterator[None]:
        """Notes every second, from entry to exit."""
        task = asyncio.create_task(self._keep(stack, requests))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, stack: ObservedStack, requests: Callable[[], int]) -> None:
        while True:
            for each in stack.all:
                samples = await asyncio.to_thread(each.samples)
                self.memory.setdefault(each.name, []).append((requests(), sum(s.own_bytes for s in samples)))
            if found := sample(stack.store.pid):
                self.memory.setdefault(STORE, []).append((requests(), found.own_bytes))
            await asyncio.sleep(EVERY_S)

    async def rest(self, stack: ObservedStack) -> None:
        """Waits until all is quiet, and looks closely. Raises: ProcessLookupError, if one has ended."""
        await asyncio.sleep(RESTS_S)
        looks: list[dict[str, Rest]] = []
        for _ in range(LOOKS):
            looks.append({each.name: await _rest(each) for each in stack.all})
            await asyncio.sleep(APART_S)
        self.rests.append({name: _least([look[name] for look in looks]) for name in looks[0]})
        async with stack.store.client() as client:
            keys = [found.key async for found in listing_of(client, layout.BRANDS)]
        self.uploads.append(sum("/up/" in key for key in keys))


async def _rest(each: Observed) -> Rest:
    seen, samples = await each.observation(), each.samples()
    objects = {name.rpartition(".")[2]: count for name, count in seen.objects.items()}
    return Rest(
        memory=sum(one.own_bytes for one in samples),
        descriptors=sum(one.descriptors for one in samples),
        threads=sum(one.threads for one in samples),
        tasks=seen.tasks,
        spans=seen.spans,
        uploads=objects.get("Destination", 0),
        leases=objects.get("Lease", 0) + objects.get("Booking", 0),
    )


def _least(looks: Sequence[Rest]) -> Rest:
    rows = [asdict(look) for look in looks]
    return Rest(**{name: min(row[name] for row in rows) for name in rows[0]})
