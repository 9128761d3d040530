"""Workers in virtual time: what they hold, in which order they paint, and what a swap costs them.

Know nothing of routers and placement. Each keeps a queue of its own, first come, first served.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from looksmith.nouns import Tier

#: SDXL, rank 16 (docs/figures/engine-cpu.json, swap_bytes).
ADAPTER_BYTES = 85_114_880
DEVICE_SLOTS, HOST_SLOTS = 16, 64
#: The 20 GiB that a worker's disk cache has by default.
DISK_SLOTS = 20 * 1024**3 // ADAPTER_BYTES


class Timeline:
    """Virtual seconds. What is due at the same moment happens in the order in which it was set down."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), do))

    def run(self) -> None:
        """Until nothing is due any more."""
        while self._due:
            self.now, _, do = heapq.heappop(self._due)
            do()


@dataclass(eq=False)
class Journey:
    """A job from its arrival to its end; times in virtual seconds. ``found``: where its worker had the adapter."""

    brand: int
    digest: str
    arrived: float
    worker: str = ""
    held: bool = False  # on device or in memory when the job was bound
    bindings: int = 0
    bound: float = 0.0
    found: Tier | None = None
    started: float = 0.0
    finished: float = math.nan  # not yet
    refused: bool = False

    @property
    def seconds(self) -> float:
        return self.finished - self.arrived


class LruTiers:
    """What lies on device, in memory and on disk, least recently used first; what fits in none is in the store."""

    def __init__(self, *, device_slots: int = DEVICE_SLOTS, host_slots: int = HOST_SLOTS, disk_slots: int = 0) -> None:
        self._device: OrderedDict[str, None] = OrderedDict()
        self._host: OrderedDict[str, None] = OrderedDict()
        self._disk: OrderedDict[str, None] = OrderedDict()
        self._device_slots, self._host_slots, self._disk_slots = device_slots, host_slots, disk_slots

    def tier(self, digest: str) -> Tier:
        if digest in self._device:
            return Tier.DEVICE
        if digest in self._host:
            return Tier.HOST
        return Tier.DISK if digest in self._disk else Tier.STORE

    def bring(self, digest: str) -> None:
        """To disk and host memory, or to the most recent end of both."""
        if self._disk_slots:
            _keep(self._disk, digest, self._disk_slots)
        _keep(self._host, digest, self._host_slots)

    def use(self, digest: str) -> None:
        """On the device, through host memory."""
        self.bring(digest)
        _keep(self._device, digest, self._device_slots)

    def residency(self) -> dict[str, Tier]:
        held = {Tier.DISK: self._disk, Tier.HOST: self._host, Tier.DEVICE: self._device}
        return {digest: tier for tier, digests in held.items() for digest in digests}


def _keep(held: OrderedDict[str, None], digest: str, slots: int) -> None:
    held[digest] = None
    held.move_to_end(digest)
    if len(held) > slots:
        held.popitem(last=False)


class SimulatedWorker(Protocol):
    """``give`` a job, and ``done`` is called at its end, unless ``stop`` took it back before.

    When each file was fetched is noted in ``fetches``.
    """

    @property
    def tiers(self) -> LruTiers: ...

    def give(self, *journeys: Journey) -> None: ...

    def prefetch(self, digest: str) -> None:
        """Asks for an adapter to be brought to memory, where that costs the device nothing."""

    def stop(self) -> list[Journey]:
        """Loses all that the worker holds; returns its unfinished jobs in order."""


class SerialWorker:
    """World A: one job at a time, its swap on the device's time before it."""

    def __init__(
        self,
        *,
        timeline: Timeline,
        done: Callable[[Journey], None],
        fetches: list[float],
        service_s: float,
        swap_seconds: Mapping[Tier, float],
    ) -> None:
        self.tiers = LruTiers()
        self._timeline, self._done, self._fetches = timeline, done, fetches
        self._service_s, self._swap_seconds = service_s, swap_seconds
        self._queue: deque[Journey] = deque()
        self._running: Journey | None = None
        self._stopped = False

    def give(self, *journeys: Journey) -> None:
        self._queue.extend(journeys)
        if self._running is None:
            self._swap()

    def prefetch(self, digest: str) -> None:
        """Does nothing: here a swap takes the device's time, whenever it is done."""

    def stop(self) -> list[Journey]:
        self._stopped = True
        return [*([self._running] if self._running else []), *self._queue]

    def _swap(self) -> None:
        journey = self._running = self._queue.popleft()
        journey.started = self._timeline.now
        journey.found = self.tiers.tier(journey.digest)
        if journey.found is Tier.STORE:
            self._fetches.append(self._timeline.now)
        self._timeline.after(self._swap_seconds[journey.found], partial(self._paint, journey))

    def _paint(self, journey: Journey) -> None:
        if not self._stopped:
            self.tiers.use(journey.digest)
            self._timeline.after(self._service_s, partial(self._finish, journey))

    def _finish(self, journey: Journey) -> None:
        if self._stopped:
            return
        self._running = None
        self._done(journey)
        if self._queue:
            self._swap()


class OverlappedWorker:
    """World B: adapters of waiting jobs are fetched beside the painting, and a batch is of several brands in turn.

    ``batch_seconds[n]`` is what a batch of n + 1 jobs takes. As many jobs are staged as two batches hold, and whoever
    is ready goes first. A batch once begun takes nobody in: the bank's does, at any step, so real waits are shorter.
    """

    def __init__(
        self,
        *,
        timeline: Timeline,
        done: Callable[[Journey], None],
        fetches: list[float],
        batch_seconds: tuple[float, ...],
        bytes_per_s: float,
        prepare_s: float,
        from_disk_s: float,
        copy_s: float,
    ) -> None:
        self.tiers = LruTiers(disk_slots=DISK_SLOTS)
        self._timeline, self._done, self._fetches = timeline, done, fetches
        self._batch_seconds = batch_seconds
        self._link = SharedLink(timeline=timeline, bytes_per_s=bytes_per_s, landed=self._landed)
        self._prepare_s, self._from_disk_s, self._copy_s = prepare_s, from_disk_s, copy_s
        self._queue: deque[Journey] = deque()
        self._batch: list[Journey] = []
        self._coming: set[str] = set()
        self._stopped = False

    def give(self, *journeys: Journey) -> None:
        self._queue.extend(journeys)
        self._stage()
        self._begin()

    def prefetch(self, digest: str) -> None:
        self._bring(digest)

    def stop(self) -> list[Journey]:
        self._stopped = True
        self._link.close()
        return [*self._batch, *self._queue]

    def _staged(self) -> list[Journey]:
        return _in_turn(list(self._queue))[: 2 * len(self._batch_seconds)]

    def _stage(self) -> None:
        """Sees to it that each staged job's adapter is in memory or on its way there, once however many want it."""
        for journey in self._staged():
            tier = self.tiers.tier(journey.digest)
            if journey.found is None:
                journey.found = Tier.HOST if journey.digest in self._coming else tier  # another job brings it
                if tier <= Tier.HOST:
                    self.tiers.bring(journey.digest)  # to the recent end: it shall not be evicted before its turn
            self._bring(journey.digest)

    def _bring(self, digest: str) -> None:
        """Begins to bring an adapter to memory, unless it is there or on its way."""
        tier = self.tiers.tier(digest)
        if tier <= Tier.HOST or digest in self._coming:
            return
        self._coming.add(digest)
        if tier is Tier.DISK:
            self._timeline.after(self._from_disk_s, partial(self._prepared, digest))
        else:
            self._fetches.append(self._timeline.now)
            self._link.fetch(digest, ADAPTER_BYTES)

    def _landed(self, digest: str) -> None:
        self._timeline.after(self._prepare_s, partial(self._prepared, digest))

    def _prepared(self, digest: str) -> None:
        if not self._stopped:
            self._coming.remove(digest)
            self.tiers.bring(digest)
            self._begin()

    def _begin(self) -> None:
        if self._batch:
            return
        ready = [journey for journey in self._staged() if self.tiers.tier(journey.digest) <= Tier.HOST]
        self._batch = _in_turn(ready)[: len(self._batch_seconds)]
        if not self._batch:
            return
        digests = {journey.digest for journey in self._batch}
        copies = sum(self.tiers.tier(digest) is not Tier.DEVICE for digest in digests)
        for journey in self._batch:
            self._queue.remove(journey)
            self.tiers.use(journey.digest)
            journey.started = self._timeline.now
        self._timeline.after(self._batch_seconds[len(self._batch) - 1] + copies * self._copy_s, self._finish)
        self._stage()

    def _finish(self) -> None:
        if self._stopped:
            return
        batch, self._batch = self._batch, []
        for journey in batch:
            self._done(journey)
        self._begin()


def _in_turn(journeys: list[Journey]) -> list[Journey]:
    """One of each brand, then another of each, and so on, as the bank gives out its rows."""
    by_brand: defaultdict[int, list[Journey]] = defaultdict(list)
    for journey in journeys:
        by_brand[journey.brand].append(journey)
    rounds = itertools.zip_longest(*by_brand.values())
    return [journey for each in rounds for journey in each if journey]


class SharedLink:
    """A worker's way to the store: whatever is being fetched shares it evenly."""

    def __init__(self, *, timeline: Timeline, bytes_per_s: float, landed: Callable[[str], None]) -> None:
        self._timeline, self._bytes_per_s, self._landed = timeline, bytes_per_s, landed
        self._left: dict[str, float] = {}  # bytes that are still to come
        self._since = 0.0
        self._plans = 0  # only the newest plan holds

    def fetch(self, digest: str, size: int) -> None:
        self._catch_up()
        self._left[digest] = size
        self._plan()

    def close(self) -> None:
        self._plans += 1

    def _catch_up(self) -> None:
        if self._left:
            each = (self._timeline.now - self._since) * self._bytes_per_s / len(self._left)
            self._left = {digest: left - each for digest, left in self._left.items()}
        self._since = self._timeline.now

    def _plan(self) -> None:
        self._plans += 1
        if self._left:
            first = min(self._left, key=self._left.__getitem__)
            seconds = max(0.0, self._left[first]) * len(self._left) / self._bytes_per_s
            self._timeline.after(seconds, partial(self._complete, first, self._plans))

    def _complete(self, digest: str, plan: int) -> None:
        if plan == self._plans:
            self._catch_up()
            del self._left[digest]
            self._plan()
            self._landed(digest)
