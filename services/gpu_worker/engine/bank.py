"""The slot bank: every resident adapter in one arena a rank class, and the layers that add the right one to each row.

Slots are named by digest. Which rows are painted, and when an adapter comes or goes, is decided by its callers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from services.gpu_worker.engine.base import shared_copy
from services.gpu_worker.engine.compiler import BlockLayout, CompiledAdapter, Place, halves_of

_NOTHING = 0  # the slot of zeros, for rows and uses without an adapter


class BankFull(RuntimeError):
    """No slot of the rank class is free: a bug of the caller, who counts them."""


@dataclass(frozen=True)
class RowUse:
    """One adapter of one row."""

    digest: str
    weight: float


@dataclass
class _Bound:
    """Blocks of the rows being painted, for one use of one rank class: copies, so that a step reads them in place."""

    blocks: Tensor  # [rows, elements]
    held: list[tuple[int, int]]  # a row's (slot, generation of its contents)
    weights: Tensor  # [rows, 1, 1]
    views: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)  # by bucket; one pair a layer


class _RankClass:
    """The arena of one rank, and the rows that use it."""

    def __init__(self, layout: BlockLayout, *, slots: int, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        self.layout = layout
        self.arena = torch.zeros(slots + 1, layout.elements, device=device, dtype=dtype)  # [_NOTHING] stays zero
        self.slot_of: dict[str, int] = {}
        self.free = list(range(slots, _NOTHING, -1))
        self.generation = [0] * (slots + 1)  # counts the adapters that a slot has held
        self.bound: list[_Bound] = []
        self._rows = rows

    def use(self, index: int) -> _Bound:
        """The bound blocks of a row's first, second or third adapter of this class."""
        while len(self.bound) <= index:
            self.bound.append(
                _Bound(
                    blocks=self.arena.new_zeros(self._rows, self.layout.elements),
                    held=[(_NOTHING, 0)] * self._rows,
                    weights=self.arena.new_zeros(self._rows, 1, 1),
                )
            )
        return self.bound[index]

    def views(self, bound: _Bound, bucket: int) -> list[tuple[Tensor, Tensor]]:
        """A^T [bucket, in, rank] and B^T [bucket, rank, out] of every layer, in the layout's order."""
        if bucket not in bound.views:
            halves = [halves_of(bound.blocks[:bucket], place, self.layout.rank) for place in self.layout.places]
            bound.views[bucket] = [(down.transpose(1, 2), up.transpose(1, 2)) for down, up in halves]
        return bound.views[bucket]


class SlotBank:
    """Slots by rank class. A row may use several adapters, of any classes, each with a weight."""

    def __init__(
        self,
        layouts: Mapping[int, BlockLayout],
        *,
        slots: Mapping[int, int],
        rows: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._classes = {
            rank: _RankClass(layout, slots=slots[rank], rows=rows, device=device, dtype=dtype)
            for rank, layout in sorted(layouts.items())
        }
        self._rank_of: dict[str, int] = {}
        #: What the next forward pass adds: per rank class and use, every layer's halves and the rows' weights.
        self.active: list[tuple[list[tuple[Tensor, Tensor]], Tensor]] = []

    @property
    def places(self) -> tuple[Place, ...]:
        """The layers that it adds to, the same for every rank class."""
        return next(iter(self._classes.values())).layout.places

    def __contains__(self, digest: str) -> bool:
        return digest in self._rank_of

    def place(self, digest: str, adapter: CompiledAdapter) -> None:
        """Fills a free slot: one copy of one buffer. One that is placed already changes nothing.

        Raises:
            BankFull: the adapter's rank class has no free slot.
        """
        if digest in self._rank_of:
            return
        if rank := adapter.form.rank:
            kind = self._classes[rank]
            if not kind.free:
                raise BankFull(f"all slots of rank {rank} are taken")
            slot = kind.free.pop()
            kind.arena[slot].copy_(adapter.block, non_blocking=True)
            kind.generation[slot] += 1
            kind.slot_of[digest] = slot
        self._rank_of[digest] = rank

    def evict(self, digest: str) -> None:
        """Frees an adapter's slot. One that has none changes nothing."""
        rank = self._rank_of.pop(digest, 0)
        if rank:
            kind = self._classes[rank]
            kind.free.append(kind.slot_of.pop(digest))

    def read(self, digest: str) -> Tensor:
        """A copy of the block in an adapter's slot; of one that takes none, an empty one."""
        if (rank := self._rank_of[digest]) == 0:
            return next(iter(self._classes.values())).arena.new_empty(0)
        kind = self._classes[rank]
        return kind.arena[kind.slot_of[digest]].clone()

    def bind(self, rows: Sequence[Sequence[RowUse]]) -> None:
        """Sets what each row of the next forward passes adds; only rows whose slots changed are copied.

        Args:
            rows: as many as the batch has; a row without uses adds exact zeros.
        """
        bucket = len(rows)
        self.active = []
        for rank, kind in self._classes.items():
            uses = [[use for use in row if self._rank_of[use.digest] == rank] for row in rows]
            for index in range(max(map(len, uses), default=0)):
                bound = kind.use(index)
                weights = []
                for row, mine in enumerate(uses):
                    slot = kind.slot_of[mine[index].digest] if index < len(mine) else _NOTHING
                    weights.append(mine[index].weight if index < len(mine) else 0.0)
                    if bound.held[row] != (slot, kind.generation[slot]):
                        bound.blocks[row].copy_(kind.arena[slot])
                        bound.held[row] = (slot, kind.generation[slot])
                bound.weights[:bucket, 0, 0] = torch.tensor(weights, dtype=bound.weights.dtype)
                self.active.append((kind.views(bound, bucket), bound.weights[:bucket]))


class BankedLayer(nn.Module):
    """A linear layer or 1x1 convolution of the base, whose rows each add what they use of the bank."""

    def __init__(self, base: nn.Linear | nn.Conv2d, bank: SlotBank, index: int) -> None:
        super().__init__()
        self.base = base
        self._bank, self._index = bank, index

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)  # [rows, ..., out] of a linear layer, [rows, out, height, width] of a convolution
        if not self._bank.active:
            return y
        image = isinstance(self.base, nn.Conv2d)
        flat = x.flatten(2).transpose(1, 2) if image else x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
        out = y.flatten(2).transpose(1, 2) if image else y.flatten(1, -2) if y.dim() > 2 else y.unsqueeze(1)
        for views, weights in self._bank.active:
            down, up = views[self._index]
            out = torch.baddbmm(out, torch.bmm(flat, down).mul_(weights), up)
        return out.transpose(1, 2).reshape(y.shape) if image else out.view(y.shape)


def with_bank(unet: nn.Module, bank: SlotBank) -> nn.Module:
    """A UNet that shares the other's weights, storage and all, and adds what is bound at each of the bank's places."""
    banked = shared_copy(unet)
    for index, place in enumerate(bank.places):
        parent, _, name = place.path.rpartition(".")
        owner = banked.get_submodule(parent)
        setattr(owner, name, BankedLayer(getattr(owner, name), bank, index))
    return banked
