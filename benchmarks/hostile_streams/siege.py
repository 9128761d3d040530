"""Attacks servers for so many streams, and says what is left of them: who ended, who hung, what they kept.

Knows neither what an attack does nor how servers are started.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from benchmarks.hostile_streams import calls, sockets
from benchmarks.hostile_streams.bystander import Bystander
from benchmarks.hostile_streams.calls import Hung
from benchmarks.hostile_streams.doors import Doors
from benchmarks.observed_stack import Observed
from benchmarks.report import Bars

Attack = Callable[[Doors, random.Random], Awaitable[int]]
ATTACKS: Mapping[Attack, float] = dict([*calls.ATTACKS.items(), *sockets.ATTACKS.items()])
#: How often each attack is made before anything is measured; seconds until that is forgotten.
WARM, CALMS_S = 2, 1.5
#: Attackers at a time.
AT_ONCE = 16
#: Seconds that servers have to put away what attackers have left, and between two looks at how far they are.
SETTLES_WITHIN_S, LOOK_EVERY_S = 30.0, 0.5
MOST_MIB = 64.0

BARS: Bars = {
    "hung": ("<=", 0),
    "unreachable": ("<=", 0),
    "ended": ("<=", 0),
    "bystander_failures": ("<=", 0),
    "memory_mib": ("<=", MOST_MIB),
    "descriptors_more": ("<=", 0),
    "tasks_more": ("<=", 0),
}


@dataclass
class Noted:
    """Streams by attack; what hung, who could not be reached, and tasks that were there afterwards and not before."""

    streams: Counter[str] = field(default_factory=Counter)
    hung: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class State:
    """What a server has, with the processes that it has started. Once it has ended: nothing."""

    memory: int = 0
    descriptors: int = 0
    threads: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)  # by coroutine

    @property
    def all_tasks(self) -> int:
        return sum(self.tasks.values())


async def siege(
    doors: Doors, servers: Sequence[Observed], *, streams: int, seed: int
) -> tuple[dict[str, float], Noted, Bystander]:
    """Figures as BARS have them, and what they are made of."""
    bystander = Bystander(registry=doors.registry.address, router=doors.router.address)
    began = time.monotonic()
    async with bystander.asking():
        # Connections that servers make when they first need them, and keep, are no leak.
        await asyncio.gather(
            *(attack(doors, random.Random(f"{seed}/warm/{i}")) for attack in ATTACKS for i in range(WARM))
        )
        await bystander.pausing()
        await asyncio.sleep(CALMS_S)
        before = await _states(servers)
        bystander.go_on()
        noted = await _attacked(doors, streams, seed)
        await bystander.pausing()
        after = await _settled(servers, before)
    for name in after:
        more = Counter(after[name].tasks) - Counter(before[name].tasks)
        noted.left.update({f"{name}: {what}": count for what, count in more.items()})
    took = time.monotonic() - began
    return {**_figures(before, after, noted, bystander), "seconds": took}, noted, bystander


async def _attacked(doors: Doors, streams: int, seed: int) -> Noted:
    noted, numbers = Noted(), iter(range(1 << 62))
    kinds, weights = list(ATTACKS), list(ATTACKS.values())
    with tqdm(total=streams, desc="hostile streams", unit="", disable=None) as progress:

        async def attacker() -> None:
            while noted.streams.total() < streams:
                draws = random.Random(f"{seed}/{next(numbers)}")
                (attack,) = draws.choices(kinds, weights)
                name = attack.__name__
                try:
                    async with asyncio.timeout(60):
                        opened = await attack(doors, draws)
                except (Hung, TimeoutError) as error:
                    noted.hung.append(str(error) or name)
                    opened = 1
                except OSError as error:
                    noted.unreachable.append(f"{name}: {error}")
                    opened = 1
                    await asyncio.sleep(0.2)
                noted.streams[name] += opened
                progress.update(opened)

        await asyncio.gather(*(attacker() for _ in range(AT_ONCE)))
    return noted


async def _settled(servers: Sequence[Observed], before: Mapping[str, State]) -> dict[str, State]:
    """Once nobody has more descriptors or tasks than before, or has had long enough."""
    deadline = time.monotonic() + SETTLES_WITHIN_S
    while True:
        after = await _states(servers)
        more = any(
            after[name].descriptors > before[name].descriptors or after[name].all_tasks > before[name].all_tasks
            for name in after
        )
        if not more or time.monotonic() > deadline:
            return after
        await asyncio.sleep(LOOK_EVERY_S)


async def _states(servers: Sequence[Observed]) -> dict[str, State]:
    return {server.name: await _state(server) for server in servers}


async def _state(server: Observed) -> State:
    try:
        seen, samples = await server.observation(), server.samples()
    except (ProcessLookupError, TimeoutError):
        return State()
    return State(
        memory=sum(each.own_bytes for each in samples),
        descriptors=sum(each.descriptors for each in samples),
        threads=sum(each.threads for each in samples),
        tasks=seen.by_coroutine,
    )


def _figures(
    before: Mapping[str, State], after: Mapping[str, State], noted: Noted, bystander: Bystander
) -> dict[str, float]:
    well = [*bystander.noted.pictures, *bystander.noted.publications]
    grown = {name: (after[name].memory - before[name].memory) / 2**20 for name in after}
    return {
        "streams": float(noted.streams.total()),
        "hung": float(len(noted.hung)),
        "unreachable": float(len(noted.unreachable)),
        "ended": float(sum(not state.memory for state in after.values())),
        "bystander_pictures": float(len(bystander.noted.pictures)),
        "bystander_publications": float(len(bystander.noted.publications)),
        "bystander_failures": float(len(bystander.noted.failures)),
        "bystander_slowest_s": max(well, default=0.0),
        **{f"{name}_memory_mib": mib for name, mib in grown.items()},
        "memory_mib": max(grown.values()),
        **{f"{name}_descriptors_more": float(after[name].descriptors - before[name].descriptors) for name in after},
        "descriptors_more": float(max(after[name].descriptors - before[name].descriptors for name in after)),
        "tasks_more": float(max(after[name].all_tasks - before[name].all_tasks for name in after)),
        "threads_more": float(max(after[name].threads - before[name].threads for name in after)),
    }
