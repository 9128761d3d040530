"""Paints for many brands in one batch: the bank lane, behind the Engine protocol.

What the bank can't hold is painted in the reference lane beside it, on the same base weights; the two take turns. Knows
nothing about queues, budgets or where adapters come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from services.chassis.painting import RecipeFacts
from services.gpu_worker.engine.bank import SlotBank, with_bank
from services.gpu_worker.engine.bank_lane import BankLane
from services.gpu_worker.engine.base import new_scheduler
from services.gpu_worker.engine.batcher import Batcher
from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import BlockLayout, CompiledAdapter
from services.gpu_worker.engine.prompts import PromptEncoder, TextPart
from services.gpu_worker.engine.protocol import (
    AdapterNotPlaced,
    EngineJob,
    Event,
    HostAdapter,
)
from services.gpu_worker.engine.recipe import RecipeError
from services.gpu_worker.engine.reference import ReferenceEngine
from services.gpu_worker.engine.reference_lane import ReferenceLane
from services.gpu_worker.engine.sampler_table import SamplerRefused, SamplerTable, sampler_table
from services.gpu_worker.engine.warm_up import warm_up


class BankEngine:
    """One base, in all recipes that have it."""

    name = "bank"

    def __init__(
        self,
        reference: ReferenceEngine,
        *,
        slots: Mapping[int, int],
        batch_sizes: Sequence[int],
        compiled: Path,
        compiled_bytes: int,
    ) -> None:
        """Takes what it is to share.

        Args:
            reference: not loaded yet; its base is shared, and it paints what the bank can't hold.
            slots: by rank class.
            batch_sizes: in rows.
            compiled: folder for compiled adapters.
            compiled_bytes: what they may take there.
        """
        self._reference, self._slots, self._buckets = reference, dict(slots), sorted(batch_sizes)
        self._compiled, self._compiled_bytes = compiled, compiled_bytes
        self._open = ExitStack()
        self._placed: dict[str, HostAdapter] = {}
        self._pool: CompilePool
        self._bank: SlotBank
        self._bank_lane: BankLane
        self._reference_lane: ReferenceLane
        self._bank_was_last = False

    @property
    def device(self) -> str:
        return self._reference.device

    @property
    def max_rows(self) -> int:
        return self._buckets[-1]

    @property
    def max_jobs(self) -> int:
        return self._buckets[-1]

    @property
    def places(self) -> Mapping[str, int]:
        return {**self._reference.places, **{_kind(rank): slots for rank, slots in self._slots.items()}}

    @property
    def recipes(self) -> Sequence[RecipeFacts]:
        return self._reference.recipes

    def load(self) -> None:
        # 1. The base, once for both lanes
        self._reference.load()
        pipe, table = self._reference.pipe, self._reference.table
        device, dtype = pipe.unet.device, pipe.unet.dtype
        # 2. The bank, a UNet that reads it, and what compiles for it
        layouts = {rank: BlockLayout.of(table, rank=rank, dtype=dtype) for rank in self._slots}
        self._pool = self._open.enter_context(
            CompilePool(
                table=table, layouts=layouts, dtype=dtype, folder=self._compiled, limit_bytes=self._compiled_bytes
            )
        )
        self._bank = SlotBank(layouts, slots=self._slots, rows=self.max_rows, device=device, dtype=dtype)
        unet = with_bank(pipe.unet, self._bank)
        # 3. The lanes
        self._bank_lane = BankLane(
            pipe,
            batcher=Batcher(unet, self._bank, buckets=self._buckets, device=device),
            prompts=PromptEncoder(pipe, table),
            tables=self._sampler_tables(),
            now=self._reference.now,
        )
        self._reference_lane = ReferenceLane(self._reference)
        # 4. Once through, so that the first job finds everything warm
        warm_up(self)

    def close(self) -> None:
        self._open.close()

    def _sampler_tables(self) -> dict[tuple[str, int], SamplerTable]:
        tables = {}
        for recipe in self._reference.known.values():
            try:
                for steps in recipe.steps:
                    tables[recipe.name, steps] = sampler_table(
                        partial(new_scheduler, recipe), steps=steps, eta=recipe.sampler.eta
                    )
            except SamplerRefused as refused:
                raise RecipeError(recipe.file, "sampler.class", str(refused)) from None
        return tables

    def dropped_words(self, prompt: str) -> str:
        return self._reference.dropped_words(prompt)

    def host_size(self, path: Path, digest: str) -> int:
        form = self._pool.form(path, digest)
        if isinstance(form, str):
            return self._reference.host_size(path, digest)
        dtype: torch.dtype = self._reference.pipe.unet.dtype
        return form.elements * dtype.itemsize

    def read(self, path: Path, digest: str) -> HostAdapter:
        compiled = self._pool.compile(path, digest)
        if isinstance(compiled, str):
            return self._reference.read(path, digest)
        return HostAdapter(digest, compiled.buffer.nbytes, compiled, _kind(compiled.form.rank))

    def keep(self, adapter: HostAdapter) -> None:
        if isinstance(adapter.payload, CompiledAdapter):
            self._pool.keep(adapter.digest, adapter.payload)

    def forget(self, digest: str) -> None:
        self._pool.forget(digest)

    def place(self, adapter: HostAdapter) -> None:
        if adapter.digest in self._placed:
            return
        if isinstance(adapter.payload, CompiledAdapter):
            self._bank.place(adapter.digest, adapter.payload)
        else:
            self._reference.place(adapter)
        self._placed[adapter.digest] = adapter

    def evict(self, digest: str) -> None:
        if self._placed.pop(digest, None):
            self._bank.evict(digest)
            self._reference.evict(digest)

    def start(self, job: EngineJob) -> None:
        compiled: dict[str, CompiledAdapter] = {}
        for adapter in job.adapters:
            if adapter.digest not in self._placed:
                raise AdapterNotPlaced(adapter.digest)
            payload = self._placed[adapter.digest].payload
            if isinstance(payload, CompiledAdapter):
                compiled[adapter.digest] = payload
        if len(compiled) < len(job.adapters):
            self._reference_lane.start(job, compiled)
            return
        parts = [TextPart(a.digest, a.weight, compiled[a.digest].text) for a in job.adapters if compiled[a.digest].text]
        self._bank_lane.start(job, parts)

    def stop(self, job: str) -> None:
        self._bank_lane.stop(job)
        self._reference_lane.stop(job)

    def curtail(self, job: str) -> bool:
        return self._bank_lane.curtail(job) or self._reference_lane.curtail(job)

    @torch.inference_mode()
    def tick(self) -> Sequence[Event]:
        self._bank_was_last = not self._bank_was_last or not self._reference_lane
        if self._bank_lane and (self._bank_was_last or not self._reference_lane):
            return self._bank_lane.tick()
        return self._reference_lane.tick()


def _kind(rank: int) -> str:
    """Places are counted by rank class. One that adapts the text encoder only takes none of the bank's."""
    return f"rank-{rank}" if rank else "peft"
