"""Paints for many brands in one batch: the bank lane, behind the Engine protocol.

What the bank can't hold is painted in the reference lane beside it, on the same base weights; the two take turns. Knows
nothing about queues, budgets or where adapters come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from services.chassis.painting import RecipeFacts
from services.gpu_worker.engine.bank import SlotBank, with_bank
from services.gpu_worker.engine.bank_lane import BankLane, LaneRecipe
from services.gpu_worker.engine.base import new_scheduler
from services.gpu_worker.engine.batcher import Batcher
from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import BeyondSlot, BlockLayout, CompiledAdapter
from services.gpu_worker.engine.prompts import PromptEncoder, TextPart
from services.gpu_worker.engine.protocol import (
    PEFT,
    AdapterNotPlaced,
    EngineJob,
    Event,
    HostAdapter,
)
from services.gpu_worker.engine.recipe import Recipe
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
        beside: BankEngine | None = None,
    ) -> None:
        """Takes what it is to share.

        Args:
            reference: not loaded yet; its base is shared, and it paints what the bank can't hold.
            slots: by rank class.
            batch_sizes: in rows.
            compiled: folder for compiled adapters.
            compiled_bytes: what they may take there.
            beside: another of the same family, loaded before this one, whose bank it uses too; it then has none.
        """
        self._reference, self._slots, self._buckets = reference, dict(slots), sorted(batch_sizes)
        self._compiled, self._compiled_bytes = compiled, compiled_bytes
        self._beside = beside
        self._open = ExitStack()
        self._placed: dict[str, BeyondSlot | None] = {}  # None: the reference engine has it
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
        self._reference.prepare()
        pipe, table = self._reference.pipe, self._reference.table
        device = pipe.unet.device
        # 2. The bank, a UNet that reads it, and what compiles for it
        if self._beside:
            self._share(self._beside)
        else:
            self._make_bank()
        unet = with_bank(pipe.unet, self._bank)
        # 3. The lanes
        self._bank_lane = BankLane(
            pipe,
            batcher=Batcher(unet, self._bank, buckets=self._buckets, device=device),
            prompts=PromptEncoder(pipe, table),
            recipes=self._lane_recipes(),
            now=self._reference.now,
        )
        self._reference_lane = ReferenceLane(self._reference, banked=self._banked)
        # 4. Once through, so that the first job finds everything warm
        warm_up(self)

    def close(self) -> None:
        self._open.close()

    def _make_bank(self) -> None:
        unet, table = self._reference.pipe.unet, self._reference.table
        layouts = {rank: BlockLayout.of(table, rank=rank, dtype=unet.dtype) for rank in self._slots}
        self._pool = self._open.enter_context(
            CompilePool(
                table=table, layouts=layouts, dtype=unet.dtype, folder=self._compiled, limit_bytes=self._compiled_bytes
            )
        )
        self._bank = SlotBank(layouts, slots=self._slots, rows=self.max_rows, device=unet.device, dtype=unet.dtype)

    def _share(self, other: BankEngine) -> None:
        ours, theirs = self._reference, other._reference
        if (ours.table.components, ours.pipe.unet.dtype) != (theirs.table.components, theirs.pipe.unet.dtype):
            recipe, first = next(iter(ours.known.values())), next(iter(theirs.known.values()))
            raise recipe.mistake(
                "base",
                f"and that of {first.file} are both {recipe.family}, but differ in layers or dtype; take two workers",
            )
        self._pool, self._bank = other._pool, other._bank

    def _lane_recipes(self) -> dict[str, LaneRecipe]:
        checkers = self._reference.safety
        return {
            name: LaneRecipe(sampler_tables(recipe), recipe.clip_skip, checkers.get(name))
            for name, recipe in self._reference.known.items()
        }

    def dropped_words(self, recipe: str, prompt: str) -> str:
        return self._reference.dropped_words(recipe, prompt)

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
        beyond: BeyondSlot | None = None
        if isinstance(adapter.payload, CompiledAdapter):
            beyond = adapter.payload.beyond_slot()
            self._bank.place(adapter.digest, adapter.payload)
        else:
            self._reference.place(adapter)
        self._placed[adapter.digest] = beyond

    def evict(self, digest: str) -> None:
        if digest in self._placed:
            del self._placed[digest]
            self._bank.evict(digest)
            self._reference.evict(digest)

    def start(self, job: EngineJob) -> None:
        beyond: dict[str, BeyondSlot] = {}
        for adapter in job.adapters:
            if adapter.digest not in self._placed:
                raise AdapterNotPlaced(adapter.digest)
            if found := self._placed[adapter.digest]:
                beyond[adapter.digest] = found
        if len(beyond) < len(job.adapters):
            self._reference_lane.start(job, list(beyond))
            return
        parts = [TextPart(a.digest, a.weight, beyond[a.digest].text) for a in job.adapters if beyond[a.digest].text]
        self._bank_lane.start(job, parts)

    def _banked(self, digest: str) -> CompiledAdapter:
        beyond = self._placed[digest]
        if beyond is None:
            raise RuntimeError("an adapter of the reference engine is not in the bank")
        return beyond.with_block(self._bank.read(digest))

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


def sampler_tables(recipe: Recipe) -> dict[int, SamplerTable]:
    """A recipe's sampler as numbers, for each number of steps that it allows.

    Raises:
        RecipeError: the sampler can't share a batch.
    """
    try:
        return {
            steps: sampler_table(new_scheduler(recipe, steps), steps=steps, eta=recipe.sampler.eta)
            for steps in recipe.steps
        }
    except SamplerRefused as refused:
        raise recipe.mistake("sampler.class", str(refused)) from None


def _kind(rank: int) -> str:
    """Places are counted by rank class. One that adapts the text encoder only takes none of the bank's."""
    return f"rank-{rank}" if rank else PEFT
