"""The worker's way of an adapter from its disk to a slot, at any base's full width: its tiers, pool and bank.

No base is loaded and no job is painted. What is timed, and beside what, is its callers'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Self

import torch

from looksmith.lora import packaged_table
from looksmith.nouns import Tier
from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.engine.bank import SlotBank
from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import BlockLayout, CompiledAdapter
from services.gpu_worker.engine.protocol import EngineJob, Event, HostAdapter
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.lease import Lease
from services.gpu_worker.tiers import AdapterTiers

DTYPE = torch.bfloat16
_KIND = "slot"
_SETTLED_S, _MOST_SETTLING_S = 0.5, 120


class SlotsOnly:
    """As much of the bank engine as adapters need."""

    name = "bank"
    max_rows = max_jobs = 1
    recipes: Sequence[RecipeFacts] = ()

    def __init__(self, family: str, *, rank: int, slots: int, device: str, compiled: Path) -> None:
        self.device, self._compiled = device, compiled
        self.places = {_KIND: slots}
        table = packaged_table(family)
        layouts = {rank: BlockLayout.of(table, rank=rank, dtype=DTYPE)}
        self._pool = CompilePool(table=table, layouts=layouts, dtype=DTYPE, folder=compiled, limit_bytes=1 << 40)
        self._placed: HostAdapter
        self._bank = SlotBank(layouts, slots={rank: slots}, rows=1, device=torch.device(device), dtype=DTYPE)
        self._open = ExitStack()

    def load(self) -> None:
        self._open.enter_context(self._pool)

    def close(self) -> None:
        self._open.close()

    def dropped_words(self, recipe: str, prompt: str) -> str:  # noqa: ARG002  # no prompts come
        return ""

    def host_size(self, path: Path, digest: str) -> int:
        form = self._pool.form(path, digest)
        if isinstance(form, str):
            raise TypeError(form)
        return form.elements * DTYPE.itemsize

    def read(self, path: Path, digest: str) -> HostAdapter:
        compiled = self._pool.compile(path, digest)
        if isinstance(compiled, str):
            raise TypeError(compiled)
        return HostAdapter(digest, compiled.buffer.nbytes, compiled, _KIND)

    def keep(self, adapter: HostAdapter) -> None:
        self._pool.keep(adapter.digest, payload_of(adapter))

    def forget(self, digest: str) -> None:
        self._pool.forget(digest)

    def place(self, adapter: HostAdapter) -> None:
        self._bank.place(adapter.digest, payload_of(adapter))
        if self.device == "cuda":
            torch.cuda.synchronize()
        self._placed = adapter

    def compiled_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._compiled.iterdir())

    def compare(self) -> None:
        """Raises RuntimeError if a slot does not hold what was placed there last."""
        if not torch.equal(self._bank.read(self._placed.digest).cpu(), payload_of(self._placed).block):
            raise RuntimeError("the slot does not hold what was placed there")

    def evict(self, digest: str) -> None:
        self._bank.evict(digest)

    def start(self, job: EngineJob) -> None:
        raise NotImplementedError(job)

    def stop(self, job: str) -> None:
        raise NotImplementedError(job)

    def curtail(self, job: str) -> bool:
        raise NotImplementedError(job)

    def tick(self) -> Sequence[Event]:
        return ()


def payload_of(adapter: HostAdapter) -> CompiledAdapter:
    if not isinstance(adapter.payload, CompiledAdapter):
        raise TypeError("not compiled for the bank")
    return adapter.payload


class TiersAlone:
    """A worker's tiers, open between enter and exit, called from outside of their event loop."""

    def __init__(self, engine: SlotsOnly, files: Sequence[Path], *, folder: Path, host_adapters: int) -> None:
        """Takes files as if an earlier run of the worker had left them: none is checked or compiled.

        Args:
            engine: not loaded yet.
            files: moved into ``folder``; ``digests`` then names them, in their order.
            folder: the disk cache's; a new one.
            host_adapters: how many fit into host memory.
        """
        folder.mkdir()
        self.digests = [file_digest(file) for file in files]
        for digest, file in zip(self.digests, files, strict=True):
            file.rename(folder / digest)
        self._engine, self._folder, self._host_adapters = engine, folder, host_adapters
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self._tiers: AdapterTiers

    def __enter__(self) -> Self:
        self._runner.run(self._enter())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._open.aclose())
        self._runner.close()

    async def _enter(self) -> None:
        thread = await self._open.enter_async_context(EngineThread(self._engine, clock=steady_clock()))
        size = self._engine.host_size(self._folder / self.digests[0], self.digests[0])
        tiers = AdapterTiers(
            disk=DiskCache(self._folder, limit_bytes=1 << 40),
            registry=_NoFiles(),
            engine_thread=thread,
            host_bytes=self._host_adapters * size,
            clock=steady_clock(),
        )
        self._tiers = await self._open.enter_async_context(tiers.running())

    def tier_of(self, digest: str) -> Tier | None:
        return self._tiers.residency().get(digest)

    def to_host(self, digest: str) -> None:
        """Brings an adapter to host memory and no further; it may be on the device as well."""
        self._runner.run(self._use(digest, place=False))

    def to_slot(self, digest: str, *, then_settle: bool = False) -> float:
        """Seconds from the request until a slot holds the adapter, wherever it is; what it holds is then compared."""
        took = self._runner.run(self._use(digest, place=True))
        if then_settle:
            self.settle()
        return took

    def settle(self) -> None:
        """Waits until what was compiled is written down, so that this disturbs nothing that is timed next."""
        size, deadline = -1, time.monotonic() + _MOST_SETTLING_S
        while size != (size := self._engine.compiled_bytes()):
            if time.monotonic() > deadline:
                raise TimeoutError("compiled files are still being written")
            time.sleep(_SETTLED_S)

    async def _use(self, digest: str, *, place: bool) -> float:
        began = time.perf_counter()
        lease: Lease = self._tiers.lease("brand", [digest])
        await self._tiers.bring(lease)
        if place:
            await self._tiers.place(lease)
        took = time.perf_counter() - began
        if place:
            self._engine.compare()
        self._tiers.release(lease)
        lease.close()
        return took


class _NoFiles:
    """Has none: all are on disk."""

    def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        raise LookupError(f"{brand} {digest}")
