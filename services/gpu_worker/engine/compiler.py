"""Compiles an adapter's file into one buffer, which a slot of the bank takes whole; says what the bank can't hold.

Runs on the CPU, in any process. Knows the base's module table; knows nothing about models, slots or jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from looksmith.lora import LoraModule, Module, ModuleTable, describe
from looksmith.lora.header import TensorInfo
from services.gpu_worker.engine.protocol import AdapterBroken

#: Part of a compiled block's key: to be raised with any change of what a block holds.
COMPILER_VERSION = 2

# What adapters adapt, with few exceptions: all that is linear inside the UNet's transformers. SD 1.5 writes two of
# these layers as 1x1 convolutions.
_BANKED = re.compile(r"(?:.*\.)?attentions\.\d+\..+")
_ALIGNMENT = 64  # bytes; a cache line
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


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
            down, up, end = _halves_from(end, module.in_features, module.out_features, rank, dtype)
            places.append(Place(path, module.in_features, module.out_features, down, up))
        return cls(rank, tuple(places), end)


@dataclass(frozen=True)
class TextPlace(Place):
    """Where in a buffer a layer's halves are that keep their own rank."""

    rank: int


@dataclass(frozen=True)
class AdapterForm:
    """What an adapter becomes: a block of its rank class, then what it changes in the text encoder.

    The text encoder's part is used once a prompt and takes no slot; its halves keep their rank.
    """

    layout: BlockLayout | None  # None: it adapts the text encoder only
    text: tuple[TextPlace, ...]  # their paths begin with the component
    elements: int

    @classmethod
    def of(cls, layout: BlockLayout | None, text: Iterable[Sequence[Any]], dtype: torch.dtype) -> AdapterForm:
        """The form of a rank class and of a text encoder's layers, each as ``described`` gives them."""
        end, places = layout.elements if layout else 0, []
        for path, in_features, out_features, rank in text:
            down, up, end = _halves_from(end, in_features, out_features, rank, dtype)
            places.append(TextPlace(path, in_features, out_features, down, up, rank))
        return cls(layout, tuple(places), end)

    @property
    def rank(self) -> int:
        """Its rank class; 0 if it needs no slot."""
        return self.layout.rank if self.layout else 0

    @property
    def described(self) -> dict[str, Any]:
        """What ``of`` needs besides the layouts, as JSON can hold it."""
        text = [[place.path, place.in_features, place.out_features, place.rank] for place in self.text]
        return {"rank": self.rank, "text": text}


@dataclass(frozen=True)
class AdapterPlan:
    """How a file becomes its form."""

    modules: tuple[LoraModule, ...]
    tensors: Mapping[str, TensorInfo]  # of the file
    form: AdapterForm


@dataclass(frozen=True, eq=False)
class CompiledAdapter:
    """A file in the base's dtype, alpha / rank folded in, in one buffer."""

    form: AdapterForm
    buffer: Tensor = field(repr=False)  # [elements of the form]

    @property
    def block(self) -> Tensor:
        """What a slot of its rank class holds."""
        return self.buffer[: self.form.layout.elements if self.form.layout else 0]

    @cached_property
    def unet(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A [rank, in] and B [out, rank] of every layer in the bank, by their paths; rank is that of the class."""
        places = self.form.layout.places if self.form.layout else ()
        return {place.path: halves_of(self.buffer, place, self.form.rank) for place in places}

    @cached_property
    def text(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A [rank, in] and B [out, rank] of the text encoder's layers that it adapts, by component and path."""
        return {place.path: halves_of(self.buffer, place, place.rank) for place in self.form.text}

    def beyond_slot(self) -> BeyondSlot:
        return BeyondSlot(self.form, self.buffer[len(self.block) :].clone())


@dataclass(frozen=True, eq=False)
class BeyondSlot:
    """What a slot does not hold of a compiled adapter: little, while host memory may give up the whole."""

    form: AdapterForm
    remainder: Tensor = field(repr=False)  # a copy of the buffer from the block's end on

    @cached_property
    def text(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """As ``CompiledAdapter.text``."""
        start = self.form.elements - len(self.remainder)
        moved = (replace(place, down=place.down - start, up=place.up - start) for place in self.form.text)
        return {place.path: halves_of(self.remainder, place, place.rank) for place in moved}

    def with_block(self, block: Tensor) -> CompiledAdapter:
        """The whole again, with what its slot holds."""
        return CompiledAdapter(self.form, torch.cat([block.to(self.remainder.device), self.remainder]))


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
    modules, tensors = describe(path, table)
    banked, largest = banked_modules(table), max(layouts)
    for module in modules:
        if module.component == "unet" and module.path not in banked:
            return f"it adapts {module.name}, for which the bank has no place"
        if module.component == "unet" and module.rank > largest:
            return f"{module.name} has rank {module.rank}; the bank's largest rank is {largest}"
        if module.kernel != (1, 1):
            return f"it adapts {module.name}, which takes another way than the bank's"
    in_unet = [module.rank for module in modules if module.component == "unet"]
    layout = layouts[min(rank for rank in layouts if rank >= max(in_unet))] if in_unet else None
    text = [(m.name, m.in_features, m.out_features, m.rank) for m in modules if m.component != "unet"]
    return AdapterPlan(modules, tensors, AdapterForm.of(layout, text, dtype))


def compile_adapter(file: BinaryIO, plan: AdapterPlan, buffer: Tensor) -> CompiledAdapter:
    """Folds alpha / rank into B, casts, and pads to the rank class.

    Args:
        file: open, not buffered; its tensors are read one at a time.
        plan: made from it.
        buffer: [elements of the form], zeros, in the base's dtype; it becomes the adapter's.

    Raises:
        AdapterBroken: it holds NaN or infinity, or a weight overflows in the buffer's dtype.
    """
    adapter = CompiledAdapter(plan.form, buffer)
    halves = {**{f"unet.{path}": half for path, half in adapter.unet.items()}, **adapter.text}
    given = _Reader(file, plan.tensors, buffer)
    for module in plan.modules:
        down, up = halves[module.name]
        given.read(module.down, down[: module.rank])
        given.read(module.up, up[:, : module.rank], scale=module.scale)
    # The extremes are finite only if all numbers are, and take a fraction of the time of asking each.
    if not all(map(torch.isfinite, torch.aminmax(buffer))):
        raise AdapterBroken(f"its weights are not finite in {str(buffer.dtype).removeprefix('torch.')}")
    return adapter


class _Reader:
    """Reads a file's tensors into parts of a buffer."""

    def __init__(self, file: BinaryIO, tensors: Mapping[str, TensorInfo], buffer: Tensor) -> None:
        self._file, self._tensors = file, tensors
        self._bytes = buffer.view(torch.uint8).numpy().data
        # Of one tensor at a time, which then is still in the processor's cache
        self._between = bytearray(max(tensor.end - tensor.start for tensor in tensors.values()))

    def read(self, name: str, out: Tensor, *, scale: float = 1.0) -> None:
        """Fills ``out``, a part of the buffer, with a tensor times ``scale``; rounds once.

        Raises:
            EOFError: the file has become shorter.
        """
        info = self._tensors[name]
        dtype, size = _DTYPES[info.dtype], info.end - info.start
        as_it_is = dtype is out.dtype and scale == 1
        self._file.seek(info.start)
        if as_it_is and out.is_contiguous():
            start = out.storage_offset() * dtype.itemsize
            self._fill(name, self._bytes[start : start + size])
            return
        self._fill(name, memoryview(self._between)[:size])
        given = torch.frombuffer(self._between, dtype=dtype, count=info.elements).view(out.shape)
        if as_it_is:
            out.copy_(given)
        elif dtype is out.dtype:
            torch.mul(given, scale, out=out)
        else:
            out.copy_(given.to(torch.promote_types(out.dtype, torch.float32)) * scale)

    def _fill(self, name: str, memory: memoryview) -> None:
        if self._file.readinto(memory) != len(memory):  # type: ignore[attr-defined]  # FileIO has it
            raise EOFError(f"the file ends within tensor {name}")


def halves_of(blocks: Tensor, place: Place, rank: int) -> tuple[Tensor, Tensor]:
    """A [..., rank, in] and B [..., out, rank] of one layer, as views of blocks [..., elements]."""
    batch, steps, start = blocks.shape[:-1], blocks.stride()[:-1], blocks.storage_offset()
    down = blocks.as_strided((*batch, rank, place.in_features), (*steps, place.in_features, 1), start + place.down)
    up = blocks.as_strided((*batch, place.out_features, rank), (*steps, rank, 1), start + place.up)
    return down, up


def _halves_from(
    start: int, in_features: int, out_features: int, rank: int, dtype: torch.dtype
) -> tuple[int, int, int]:
    """Where a layer's A and B begin from ``start`` on, and where the next layer does."""
    step = _ALIGNMENT // dtype.itemsize
    up = _round_up(start + rank * in_features, step)
    return start, up, _round_up(up + out_features * rank, step)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
