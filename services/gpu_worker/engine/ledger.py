"""What a worker with certain recipes holds on its device, counted before it loads anything, and what fits beside that.

Arithmetic on what examination.py finds in headers; of devices it knows their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ByteSize

from looksmith.nouns import MAX_ADAPTERS
from services.chassis.process import CannotStart
from services.gpu_worker.engine.base import DTYPES, vae_dtype
from services.gpu_worker.engine.compiler import BlockLayout
from services.gpu_worker.engine.examination import Examined, FoundBase, examine
from services.gpu_worker.engine.pictures import decoded_at_once
from services.gpu_worker.engine.recipe import Recipe

#: Ranks that planners ask about.
RANKS = (8, 16, 32, 64, 128)
#: How many tensors of a VAE's largest shape are there at once while it decodes. Counted with SD 1.5's and SDXL's on the
#: device "meta": 3.0, a residual block's input, its norm and what the activation makes of that, for 1 and 8 pictures
#: alike. Measured as resident memory on a CPU, SDXL's at 512x512: 4.1 in float32 and in bfloat16, as convolutions take
#: memory to work with. One more, as some lay out their input anew. A step of the UNet takes a tenth of all this.
DECODING_TENSORS = 5


class DeviceTooSmall(CannotStart):
    """The recipes need more than the device has; the message names what takes how much, and what can be changed."""


@dataclass(frozen=True)
class HeldBase:
    """A loaded base, which all recipes of the same weights and distillation share."""

    source: Path
    family: str
    dtype: str
    recipes: tuple[str, ...]
    models: Mapping[str, int]  # bytes; its safety checkers among them
    decoding: int  # bytes, beside the models, for what is decoded at once

    @property
    def size(self) -> int:
        return sum(self.models.values())


@dataclass(frozen=True)
class HeldBank:
    """A family's bank: slots, one of zeros in each class, and what the rows of a batch copy from them."""

    family: str
    slots: Mapping[int, int]  # by rank class
    blocks: Mapping[int, int]  # bytes of an adapter, by rank
    rows: int

    @property
    def size(self) -> int:
        return sum(self.needs(rank, slots) for rank, slots in self.slots.items())

    def needs(self, rank: int, slots: int) -> int:
        """Bytes of one class. Rows bind as many adapters of it as a request may use."""
        return self.blocks[rank] * (slots + 1 + self.rows * MAX_ADAPTERS)

    def slots_in(self, rank: int, size: int) -> int:
        """How many slots of a rank so many bytes hold, were the bank of this class only."""
        return max(0, size // self.blocks[rank] - 1 - self.rows * MAX_ADAPTERS)


@dataclass(frozen=True)
class Ledger:
    """Bytes on one device. Adapters that no bank can hold (WORKER_PEFT_SLOTS) are not in it: their size is unknown."""

    bases: tuple[HeldBase, ...]
    banks: tuple[HeldBank, ...]

    @property
    def reserve(self) -> int:
        """For activations: what decoding takes. Bases take turns, so that the largest counts."""
        return max((base.decoding for base in self.bases), default=0)

    @property
    def total(self) -> int:
        return self.reserve + sum(base.size for base in self.bases) + sum(bank.size for bank in self.banks)

    def brands(self, bank: HeldBank, rank: int, budget: int) -> int:
        """How many adapters of a rank fit, were the bank of this class only; all else stays as it is."""
        return bank.slots_in(rank, budget - self.total + bank.size)

    def check(self, budget: int) -> None:
        """Raises: DeviceTooSmall, if ``budget`` bytes are too few."""
        if self.total <= budget:
            return
        lines = [f"the recipes need {shown(self.total)} of a device that has {shown(budget)} (WORKER_DEVICE_BYTES):"]
        for base in self.bases:
            models = ", ".join(f"{name} {shown(size)}" for name, size in base.models.items())
            lines.append(f"{shown(base.size)} for {', '.join(base.recipes)} in {base.dtype}: {models}; {base.source}")
        for bank in self.banks:
            slots = ",".join(f"{rank}:{count}" for rank, count in bank.slots.items())
            lines.append(f"{shown(bank.size)} for the bank of {bank.family}, WORKER_SLOTS={slots}")
        lines.append(f"{shown(self.reserve)} to decode pictures")
        lines.append("take fewer slots, smaller batches, a dtype of 16 bits, or another worker for some of the recipes")
        raise DeviceTooSmall("\n  ".join(lines))


def ledger_of(examined: Iterable[Examined], *, slots: Mapping[int, int], rows: int) -> Ledger:
    """The ledger of a worker with those recipes whose base could be found.

    Args:
        examined: recipes of one worker.
        slots: of each bank, by rank class; empty: there are no banks, as with the reference engine.
        rows: of the largest batch.
    """
    alike: dict[object, list[tuple[Examined, FoundBase]]] = {}
    for each in examined:
        if each.base:
            alike.setdefault(each.recipe.weights, []).append((each, each.base))
    banks: dict[str, HeldBank] = {}
    for (first, base), *_ in alike.values():
        if slots and first.recipe.family not in banks:
            banks[first.recipe.family] = _bank(first, base, slots=slots, rows=rows)
    return Ledger(
        bases=tuple(_base(group, rows) for group in alike.values()),
        banks=tuple(banks.values()),
    )


def check_device(
    recipes: Sequence[Recipe], *, device: str, limit: int, slots: Mapping[int, int], rows: int, batched: bool
) -> None:
    """Refuses recipes that need more than a device has; asks nothing of them where there is no limit.

    Args:
        recipes: of one worker.
        device: cpu or cuda.
        limit: bytes; 0: none on a CPU, what is free on CUDA.
        slots: as of ledger_of.
        rows: as of ledger_of.
        batched: as of examine.

    Raises:
        DeviceTooSmall: they need more.
        RecipeError: one can't be served at all.
    """
    budget = limit or (torch.cuda.mem_get_info()[0] if device == "cuda" else 0)
    if not budget:
        return
    examined = examine(recipes, batched=batched)
    for each in examined:
        each.refuse()
    ledger_of(examined, slots=slots, rows=rows).check(budget)


def decoding_bytes(width: int, height: int, *, channels: Sequence[int], itemsize: int) -> int:
    """What decoding one picture takes beside the weights.

    The largest tensor stands before the VAE's last block: of the picture's width and height, and of the channels that
    the block before it makes.

    Args:
        width: in pixels.
        height: in pixels.
        channels: block_out_channels of the VAE, from the picture inwards.
        itemsize: bytes of a number.
    """
    return DECODING_TENSORS * width * height * channels[:2][-1] * itemsize


def shown(size: int) -> str:
    """Bytes as people read them, in powers of two as devices are sold."""
    return ByteSize(size).human_readable(separator=" ")


def _base(group: Sequence[tuple[Examined, FoundBase]], rows: int) -> HeldBase:
    first, base = group[0]
    recipe, wide = first.recipe, vae_dtype(first.recipe, base.pipeline).itemsize
    dtype = DTYPES[recipe.dtype]
    models = {name: n * (wide if name == "vae" else dtype.itemsize) for name, n in base.parameters.items()}
    checkers = {each.checker.folder: each.checker.parameters for each, _ in group if each.checker}
    if checkers:
        models["safety_checker"] = sum(checkers.values()) * dtype.itemsize
    sizes = {size for each, _ in group for size in each.recipe.sizes}
    channels = base.pipeline.models["vae"].config.block_out_channels
    return HeldBase(
        source=recipe.base.path,
        family=recipe.family,
        dtype=recipe.dtype,
        recipes=tuple(each.recipe.name for each, _ in group),
        models=models,
        decoding=max(
            min(rows, decoded_at_once(*size)) * decoding_bytes(*size, channels=channels, itemsize=wide)
            for size in sizes
        ),
    )


def _bank(examined: Examined, base: FoundBase, *, slots: Mapping[int, int], rows: int) -> HeldBank:
    dtype = DTYPES[examined.recipe.dtype]
    blocks = {
        rank: BlockLayout.of(base.table, rank=rank, dtype=dtype).elements * dtype.itemsize
        for rank in sorted({*RANKS, *slots})
    }
    return HeldBank(examined.recipe.family, dict(slots), blocks, rows)
