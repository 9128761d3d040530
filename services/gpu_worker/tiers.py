"""Where adapters are: brings them from the store to disk, to host memory and onto the device, and makes room.

Each file is fetched once however many jobs want it. Knows nothing about queues, and of the engine only how an adapter
is read, placed and evicted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from looksmith.errors import Unavailable
from looksmith.lora import LoraError
from looksmith.nouns import Tier
from services.gpu_worker.clock import Clock
from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.engine.protocol import AdapterBroken, HostAdapter, Stage
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.errors import AdapterUnusable, RegistryLost
from services.gpu_worker.lease import Lease
from services.gpu_worker.ports import AdapterFiles
from services.gpu_worker.single_flight import SingleFlight
from services.gpu_worker.swap import StageTime

log = structlog.get_logger()

_MAX_PREFETCHES = 16


class _GoneFromDisk(Exception):
    """A file was evicted or removed between two steps: it has to be fetched again."""


class AdapterTiers:
    """A lease is taken, brought to host memory, placed on the device, and released; each step may be left out."""

    def __init__(
        self,
        *,
        disk: DiskCache,
        registry: AdapterFiles,
        engine_thread: EngineThread,
        host_bytes: int,
        clock: Clock,
    ) -> None:
        self._disk, self._registry, self._thread, self._clock = disk, registry, engine_thread, clock
        self._host_limit = host_bytes
        self._host: OrderedDict[str, HostAdapter] = OrderedDict()  # least recently used first
        self._host_sizes: dict[str, int] = {}  # bytes that a file on disk becomes in host memory
        self._device: OrderedDict[str, str] = OrderedDict()  # digest -> the kind of place it takes
        self._reading: dict[str, int] = {}  # digest -> bytes set aside for it
        self._pins: dict[Tier, Counter[str]] = {Tier.HOST: Counter(), Tier.DEVICE: Counter()}
        self._flights: SingleFlight[int] = SingleFlight(landed=self._drop_unwanted)
        self._reads: SingleFlight[HostAdapter] = SingleFlight(landed=self._drop_unwanted)
        self._unwanted: set[str] = set()  # to be dropped once nobody uses them
        self._placing = ""  # the digest that is being copied to the device
        self._host_turn = asyncio.Lock()  # first come, first served: a large adapter is not overtaken for ever
        self._freed = asyncio.Event()
        self._waiting = 0  # leases that wait for room in host memory
        self._prefetches: set[asyncio.Task[None]] = set()
        self._watchers: list[Callable[[], None]] = []
        self._closed = False  # there is no engine to bring adapters to

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AdapterTiers]:
        """Finds what is on disk; on exit, ends what is still under way."""
        await asyncio.to_thread(self._disk.open)
        try:
            yield self
        finally:
            for task in self._prefetches:
                task.cancel()
            await asyncio.gather(*self._prefetches, return_exceptions=True)
            await self._flights.close()
            await self._reads.close()

    # What is where

    @property
    def slots(self) -> int:
        return 0 if self._thread.rebuilding else sum(self._thread.engine.places.values())

    @property
    def slots_used(self) -> int:
        return len(self._device)

    @property
    def host_bytes(self) -> int:
        return sum(adapter.size_bytes for adapter in self._host.values()) + sum(self._reading.values())

    @property
    def waiting_for_memory(self) -> int:
        """Leases for which there is no room in host memory, as others' adapters fill it."""
        return self._waiting

    @property
    def disk_bytes(self) -> int:
        return self._disk.bytes_used

    def residency(self) -> dict[str, Tier]:
        """Every adapter that is here, at its fastest tier."""
        return {
            **dict.fromkeys(self._disk.digests, Tier.DISK),
            **dict.fromkeys(self._host, Tier.HOST),
            **dict.fromkeys(self._device, Tier.DEVICE),
        }

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls ``changed`` after every change of residency."""
        self._watchers.append(changed)

    # What a job does

    def lease(self, brand: str, digests: Sequence[str], *, span_name: str = "adapter.swap") -> Lease:
        here = self.residency()
        found = [here.get(digest, Tier.STORE) for digest in digests]
        return Lease(brand, tuple(dict.fromkeys(digests)), max(found, default=None), self._clock, span_name)

    async def bring(self, lease: Lease, *, wait: bool = True) -> bool:
        """Brings a lease's adapters to host memory, where they stay until it is released.

        Those that are on the device already are left there. Without ``wait``, gives up and returns False where other
        leases leave no room.

        Raises:
            LooksmithError: a file can't be fetched, is not what its digest says, or can't be used.
        """
        checks: list[asyncio.Task[None]] = []  # of files that this lease found unchecked; they go on beside the rest
        try:
            while not lease.holds_host:
                absent = [d for d in lease.digests if d not in self._host and d not in self._reading]
                try:
                    await asyncio.gather(*(self._to_disk(lease, d, checks) for d in absent if d not in self._device))
                    async with self._host_turn:
                        if not (self._grant(lease) or await self._room(lease, wait=wait)):
                            return False
                    await self._to_host(lease, [digest for digest in lease.digests if digest in self._reading])
                except _GoneFromDisk:
                    self._release_host(lease)
                await asyncio.gather(*checks)
        finally:
            for check in checks:
                check.cancel()
                check.add_done_callback(lambda check: check.cancelled() or check.exception())  # seen, if nowhere else
        return True

    async def place(self, lease: Lease) -> None:
        """Copies a lease's adapters to the device, where they stay until it is released. One call at a time.

        Raises:
            LooksmithError: as ``bring``.
        """
        engine = self._thread.engine
        self._pins[Tier.DEVICE].update(lease.digests)
        lease.holds_device = True
        for digest in lease.digests:
            if digest in self._device:
                self._device.move_to_end(digest)
                continue
            if not lease.holds_device:  # its job has ended meanwhile
                return
            if digest not in self._host:  # it was on the device when the lease was taken, and has been evicted
                self._release_host(lease)
                await self.bring(lease)
            adapter = self._host[digest]
            if not await self._make_place(lease, adapter.kind):
                return

            def copy(adapter: HostAdapter = adapter) -> StageTime:
                start = self._clock()
                engine.place(adapter)
                return StageTime(Stage.COPY, start, self._clock())

            self._placing = digest
            try:
                lease.record(await self._thread.call(copy))
            finally:
                self._placing = ""
            self._device[digest] = adapter.kind
            self._changed()

    def release(self, lease: Lease) -> None:
        """Ends a lease. Its adapters stay where they are until their room is needed."""
        self._release_host(lease)
        if lease.holds_device:
            lease.holds_device = False
            self._pins[Tier.DEVICE].subtract(lease.digests)
            self._freed.set()
        self._drop_unwanted()

    # What the registry asks for

    def forget(self, digests: Iterable[str]) -> None:
        """Drops every copy of adapters, as soon as nobody uses it; whoever needs one then fetches it anew."""
        self._unwanted.update(digests)
        self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        if self._closed:
            return
        for digest in [digest for digest in self._unwanted if not self._used(digest)]:
            self._unwanted.remove(digest)
            if digest in self.residency():
                log.info("adapter.forgotten", digest=digest)
            if self._device.pop(digest, None):
                self._thread.post(partial(self._thread.engine.evict, digest))
            self._host.pop(digest, None)
            self._disk.remove(digest)
            self._thread.engine.forget(digest)
            self._changed()

    def _used(self, digest: str) -> bool:
        pinned = any(pins[digest] for pins in self._pins.values()) or self._disk.is_pinned(digest)
        return pinned or digest in self._reading or digest == self._placing

    # What a router asks for

    def prefetch(self, brand: str, digest: str) -> None:
        """Brings an adapter to host memory if there is room, else to disk; only logs if it can't."""
        if self._closed or len(self._prefetches) >= _MAX_PREFETCHES:
            log.info("adapter.prefetch_skipped", brand=brand, digest=digest)
            return

        async def bring() -> None:
            lease = self.lease(brand, [digest], span_name="adapter.prefetch")
            try:
                await self.bring(lease, wait=False)
            except Exception as error:  # noqa: BLE001  # the job that needs it will say what is wrong
                log.warning("adapter.prefetch_failed", brand=brand, digest=digest, error=str(error))
            finally:
                self.release(lease)
                lease.close()

        task = asyncio.create_task(bring())
        self._prefetches.add(task)
        task.add_done_callback(self._prefetches.discard)

    async def evict(self, digest: str) -> bool:
        """Forgets an adapter on the device and in host memory. False if a job is using it."""
        if self._pins[Tier.DEVICE][digest] or self._pins[Tier.HOST][digest] or digest in self._reading:
            return False
        if self._host.pop(digest, None):
            self._changed()
        if digest in self._device:
            await self._evict_from_device(digest)
        return True

    # What the rebuilding of the engine asks for

    async def emptied(self) -> None:
        """Drops all that is in host memory and on the device, which go with the engine; ends what is under way.

        Files on disk stay. Until ``reopen`` nothing is brought.
        """
        self._closed = True
        for task in self._prefetches:
            task.cancel()
        await asyncio.gather(*self._prefetches, return_exceptions=True)
        await self._flights.close()
        await self._reads.close()
        for kept in (self._host, self._device, self._host_sizes):
            kept.clear()
        self._changed()

    def reopen(self) -> None:
        self._closed = False
        self._drop_unwanted()
        self._changed()

    # Store to disk

    async def _to_disk(self, lease: Lease, digest: str, checks: list[asyncio.Task[None]]) -> None:
        """Fetches a file, begins to check it, and learns what it will take in memory."""
        with self._disk.pinned(digest):
            if self._disk.size_of(digest) is None:
                with lease.stage(Stage.FETCH):
                    mine = (Stage.FETCH, digest) not in self._flights
                    fetched = await self._flights.join((Stage.FETCH, digest), partial(self._fetch, lease.brand, digest))
                    lease.fetched_bytes += fetched if mine else 0
            if self._disk.needs_check(digest):
                checks.append(asyncio.create_task(self._check(lease, digest)))
            if digest not in self._host_sizes:
                measure = self._thread.engine.host_size
                with lease.stage(Stage.COMPILE):
                    async with self._trusted(digest):
                        self._host_sizes[digest] = await asyncio.to_thread(measure, self._disk.path(digest), digest)

    async def _fetch(self, brand: str, digest: str) -> int:
        try:
            with self._disk.pinned(digest):
                fetched = await self._disk.write(digest, self._registry.download(brand, digest))
        except Unavailable as error:
            if error.reason == Unavailable.reason:  # said by gRPC: callers would take it for the loss of this worker
                raise RegistryLost(error.message) from None
            raise
        log.info("adapter.fetched", brand=brand, digest=digest, bytes=fetched)
        return fetched

    async def _check(self, lease: Lease, digest: str) -> None:
        with lease.stage(Stage.VERIFY), suppress(_GoneFromDisk):  # whoever misses it fetches it, and checks that
            await self._verified(digest)

    async def _verified(self, digest: str) -> None:
        if self._disk.size_of(digest) is None:
            raise _GoneFromDisk
        if self._disk.needs_check(digest):
            await self._flights.join((Stage.VERIFY, digest), partial(self._verify, digest))

    async def _verify(self, digest: str) -> int:
        with self._disk.pinned(digest):
            await self._disk.check(digest)
        self._changed()
        return 0

    @asynccontextmanager
    async def _trusted(self, digest: str) -> AsyncIterator[None]:
        """What fails inside is the adapter's fault only if its file is what its digest says.

        Raises:
            AdapterUnusable: so it is.
            DigestMismatch: it is not.
            _GoneFromDisk: there is no file any more.
        """
        if self._disk.size_of(digest) is None:
            raise _GoneFromDisk
        try:
            yield
        except (LoraError, AdapterBroken, OSError) as error:
            await self._verified(digest)
            if isinstance(error, OSError):
                raise
            what = error.problems[0].what if isinstance(error, LoraError) else str(error)
            raise AdapterUnusable(digest, what) from error

    # Disk to host

    def _grant(self, lease: Lease) -> bool:
        """Room for all of a lease's adapters or for none, so that two leases never wait for each other's half.

        Raises:
            _GoneFromDisk: a file has been evicted since it came.
        """
        needed = [d for d in lease.digests if d not in self._host and d not in self._reading and d not in self._device]
        sizes: dict[str, int] = {}
        for digest in needed:
            if self._disk.size_of(digest) is None:
                raise _GoneFromDisk
            size = self._host_sizes[digest]
            if size > self._host_limit:
                raise AdapterUnusable(digest, f"its {size} bytes exceed the worker's {self._host_limit} of host memory")
            sizes[digest] = size
        room = sum(sizes.values())
        for digest in [d for d in self._host if not self._pins[Tier.HOST][d] and d not in lease.digests]:
            if self.host_bytes + room <= self._host_limit:
                break
            log.info("adapter.evicted", digest=digest, tier="host")
            del self._host[digest]
            self._changed()
        if self.host_bytes + room > self._host_limit:
            return False
        self._reading |= sizes
        self._pins[Tier.HOST].update(lease.digests)
        lease.holds_host = True
        return True

    async def _room(self, lease: Lease, *, wait: bool) -> bool:
        """Waits until leases that fill the memory have given enough of it back. False: it is not to wait."""
        if not wait:
            return False
        log.warning("adapter.waits_for_memory", brand=lease.brand, host_bytes=self.host_bytes, limit=self._host_limit)
        self._waiting += 1
        try:
            while True:
                self._freed.clear()
                await self._freed.wait()
                if self._grant(lease):
                    return True
        finally:
            self._waiting -= 1

    async def _to_host(self, lease: Lease, digests: Sequence[str]) -> None:
        # All begin before anything is awaited: what is set aside for them is given back by those who admit.
        admissions = [self._flights.join((Tier.HOST, d), partial(self._admit, d)) for d in digests]
        if digests:
            await asyncio.gather(self._compiled(lease, digests), *admissions)

    async def _compiled(self, lease: Lease, digests: Sequence[str]) -> None:
        with lease.stage(Stage.COMPILE):
            await asyncio.gather(*(self._reads.join(d, partial(self._read, d)) for d in digests))

    async def _admit(self, digest: str) -> int:
        """Takes an adapter in once it is read and its file is checked, whichever is later."""
        try:
            adapter = await self._reads.join(digest, partial(self._read, digest))
            await self._verified(digest)
        finally:
            del self._reading[digest]
            self._freed.set()
        self._host[digest] = adapter
        self._thread.engine.keep(adapter)
        self._changed()
        return 0

    async def _read(self, digest: str) -> HostAdapter:
        with self._disk.pinned(digest):
            async with self._trusted(digest):
                return await asyncio.to_thread(self._thread.engine.read, self._disk.path(digest), digest)

    def _release_host(self, lease: Lease) -> None:
        if lease.holds_host:
            lease.holds_host = False
            self._pins[Tier.HOST].subtract(lease.digests)
            for digest in lease.digests:
                if digest in self._host:
                    self._host.move_to_end(digest)
            self._freed.set()

    # Host to device

    async def _make_place(self, lease: Lease, kind: str) -> bool:
        """Waits for running jobs where they hold all places of this kind. False: the lease has been released."""
        places = self._thread.engine.places[kind]
        while sum(taken == kind for taken in self._device.values()) >= places:
            if not lease.holds_device:
                return False
            if victim := self._device_victim(kind):
                await self._evict_from_device(victim)
            else:
                self._freed.clear()
                await self._freed.wait()
        return True

    def _device_victim(self, kind: str) -> str | None:
        """Least recently used, wanted by no waiting job if there is such a one. None: running jobs hold them all."""
        pinned, wanted = self._pins[Tier.DEVICE], self._pins[Tier.HOST]
        free = [digest for digest, taken in self._device.items() if taken == kind and not pinned[digest]]
        return min(free, key=lambda digest: wanted[digest] > 0, default=None)

    async def _evict_from_device(self, digest: str) -> None:
        del self._device[digest]  # first: whoever needs it from now on places it again, after the eviction
        await self._thread.call(lambda: self._thread.engine.evict(digest))
        log.info("adapter.evicted", digest=digest, tier="device")
        self._changed()

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()
