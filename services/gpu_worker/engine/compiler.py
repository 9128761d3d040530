"""Compiles an adapter's file into one buffer, which a slot of the bank takes whole; says what the bank can't hold.

Runs on the CPU, in any process. Knows the base's module table; knows nothing about models, slots or jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from looksmith.lora import LoraModule, Module, ModuleTable, read_modules
from services.gpu_worker.engine.protocol import AdapterBroken

#: Part of a compiled block's key: to be raised with any change of what a block holds.
COMPILER_VERSION = 1

# What adapters adapt, with few exceptions: all that is linear inside the UNet's transformers. SD 1.5 writes two of
# these layers as 1x1 convolutions.
_BANKED = re.compile(r"(?:.*\.)?attentions\.\d+\..+")
_ALIGNMENT = 64  # bytes; a cache line


@dataclass(frozen=True)
class Place:
    """Where in a block one layer's halves are, counted in elements."""

    path: str
    in_features: int
    out_features: int
    down: int  # of A, [rank, in_features]
    up: int  # of B, [out_features, rank], alpha / rank folded in


@dataclass(frozen=True)
class BlockLayout:
    """One rank class: the same for all its adapters, so that filling a slot is one copy."""

    rank: int
    places: tuple[Place, ...]
    elements: int

    @classmethod
    def of(cls, table: ModuleTable, *, rank: int, dtype: torch.dtype) -> BlockLayout:
        places, end = [], 0
        for path, module in banked_modules(table).items():
            place, end = _place(path, module, rank=rank, start=end, dtype=dtype)
            places.append(place)
        return cls(rank, tuple(places), end)

    @cached_property
    def by_path(self) -> Mapping[str, Place]:
        return {place.path: place for place in self.places}


@dataclass(frozen=True)
class AdapterPlan:
    """What a file becomes, known from its header: a block of its rank class, then what adapts the text encoder.

    The text encoder's part is used once a prompt and takes no slot; its halves keep their rank.
    """

    modules: tuple[LoraModule, ...]
    layout: BlockLayout | None  # None: it adapts the text encoder only
    text: Mapping[str, Place]  # by the module's name
    elements: int

    @property
    def rank(self) -> int:
        """Its rank class; 0 if it needs no slot."""
        return self.layout.rank if self.layout else 0

    def halves(self, module: LoraModule, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one of its modules in a buffer; in a block, rank is that of the class."""
        if self.layout and module.name not in self.text:
            return halves_of(buffer, self.layout.by_path[module.path], self.rank)
        return halves_of(buffer, self.text[module.name], module.rank)


@dataclass(frozen=True)
class CompiledAdapter:
    """A file in the base's dtype, alpha / rank folded in, in one buffer."""

    plan: AdapterPlan
    buffer: Tensor = field(repr=False)  # [elements of the plan]

    @property
    def block(self) -> Tensor:
        """What a slot of its rank class holds."""
        return self.buffer[: self.plan.layout.elements if self.plan.layout else 0]

    @cached_property
    def text(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A [rank, in] and B [out, rank] of the text encoder's modules, by their names."""
        return {
            module.name: self.plan.halves(module, self.buffer)
            for module in self.plan.modules
            if module.name in self.plan.text
        }


def banked_modules(table: ModuleTable) -> Mapping[str, Module]:
    """The UNet's layers that a bank has places for, sorted by path."""
    return {
        path: module
        for path, module in sorted(table.components["unet"].items())
        if module.kernel == (1, 1) and _BANKED.fullmatch(path)
    }


def plan_adapter(
    path: Path, table: ModuleTable, layouts: Mapping[int, BlockLayout], dtype: torch.dtype
) -> AdapterPlan | str:
    """Reads a file's header.

    Returns:
        The plan, or why the bank can't hold the adapter and the reference engine must paint it.

    Raises:
        LoraError: the file does not fit the base.
    """
    modules = read_modules(path, table)
    banked, largest = banked_modules(table), max(layouts)
    for module in modules:
        if module.component == "unet" and module.path not in banked:
            return f"it adapts {module.name}, for which the bank has no place"
        if module.component == "unet" and module.rank > largest:
            return f"{module.name} has rank {module.rank}; the bank's largest rank is {largest}"
        if module.component not in ("unet", "text_encoder") or module.kernel != (1, 1):
            return f"it adapts {module.name}, which takes another way than the bank's"
    in_unet = [module.rank for module in modules if module.component == "unet"]
    layout = layouts[min(rank for rank in layouts if rank >= max(in_unet))] if in_unet else None
    end = layout.elements if layout else 0
    text = {}
    for module in modules:
        if module.component != "unet":
            place, end = _place(module.name, module, rank=module.rank, start=end, dtype=dtype)
            text[module.name] = place
    return AdapterPlan(modules, layout, text, end)


def compile_adapter(path: Path, plan: AdapterPlan, buffer: Tensor) -> CompiledAdapter:
    """Folds alpha / rank into B, casts, and pads to the rank class.

    Args:
        path: a file whose digest has been checked.
        plan: made from it.
        buffer: [elements of the plan], zeros, in the base's dtype; it becomes the adapter's.

    Raises:
        AdapterBroken: it holds NaN or infinity, or a weight overflows in the buffer's dtype.
    """
    wide = torch.promote_types(buffer.dtype, torch.float32)  # rounded once, at the end, as mul does by itself
    with safe_open(path, framework="pt") as file:
        for module in plan.modules:
            down, up = plan.halves(module, buffer)
            down[: module.rank].copy_(file.get_tensor(module.down).flatten(1))
            given = file.get_tensor(module.up).flatten(1)
            if given.dtype is buffer.dtype:
                torch.mul(given, module.scale, out=up[:, : module.rank])
            else:
                up[:, : module.rank].copy_(given.to(wide) * module.scale)
    # The extremes are finite only if all numbers are, and take a fraction of the time of asking each.
    if not all(map(torch.isfinite, torch.aminmax(buffer))):
        raise AdapterBroken(f"its weights are not finite in {str(buffer.dtype).removeprefix('torch.')}")
    return CompiledAdapter(plan, buffer)


def halves_of(blocks: Tensor, place: Place, rank: int) -> tuple[Tensor, Tensor]:
    """A [..., rank, in] and B [..., out, rank] of one layer, as views of blocks [..., elements]."""
    down = blocks[..., place.down : place.down + rank * place.in_features]
    up = blocks[..., place.up : place.up + place.out_features * rank]
    batch = blocks.shape[:-1]
    return down.view(*batch, rank, place.in_features), up.view(*batch, place.out_features, rank)


def _place(path: str, module: Module | LoraModule, *, rank: int, start: int, dtype: torch.dtype) -> tuple[Place, int]:
    """A layer's place from ``start`` on, and where the next one begins."""
    in_features, out_features = module.in_features, module.out_features
    step = _ALIGNMENT // dtype.itemsize
    up = _round_up(start + rank * in_features, step)
    return Place(path, in_features, out_features, start, up), _round_up(up + out_features * rank, step)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
