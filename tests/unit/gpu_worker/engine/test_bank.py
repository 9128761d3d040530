"""Slots, and rows that read them: no adapter's numbers may show where another's belong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from looksmith.lora import Module, ModuleTable
from services.gpu_worker.engine.bank import BankFull, RowUse, SlotBank, with_bank
from services.gpu_worker.engine.compiler import AdapterForm, BlockLayout, CompiledAdapter

IN, OUT, RANK = 6, 5, 4
CPU = torch.device("cpu")


class Tiny(nn.Module):
    """One layer of each kind, where a bank looks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([nn.ModuleDict({"line": nn.Linear(IN, OUT), "point": nn.Conv2d(IN, OUT, 1)})])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.attentions[0]
        assert isinstance(layers, nn.ModuleDict)
        return layers["line"](x), layers["point"](x.transpose(1, 2).unflatten(2, (1, -1)))


def table() -> ModuleTable:
    layers = {"attentions.0.line": Module("linear", IN, OUT), "attentions.0.point": Module("conv", IN, OUT, (1, 1))}
    return ModuleTable("studio", "", {"unet": layers})


def adapter(layout: BlockLayout, seed: int) -> CompiledAdapter:
    block = torch.randn(layout.elements, generator=torch.Generator().manual_seed(seed))
    return CompiledAdapter(AdapterForm(layout, (), layout.elements), block)


def bank(*, slots: int = 3, rows: int = 4, ranks: tuple[int, ...] = (RANK,)) -> tuple[SlotBank, dict[int, BlockLayout]]:
    layouts = {rank: BlockLayout.of(table(), rank=rank, dtype=torch.float32) for rank in ranks}
    return SlotBank(layouts, slots=dict.fromkeys(ranks, slots), rows=rows, device=CPU, dtype=torch.float32), layouts


def by_hand(model: Tiny, x: Tensor, uses: list[tuple[CompiledAdapter, float]]) -> tuple[Tensor, Tensor]:
    """One row's outputs, from the halves."""
    line, point = model(x)
    for used, weight in uses:
        for path, (down, up) in used.unet.items():
            added = x @ down.T @ up.T * weight
            if path.endswith("line"):
                line = line + added
            else:
                point = point + added.transpose(1, 2).unflatten(2, (1, -1))
    return line, point


def test_every_row_gets_its_own_adapters_at_their_weights() -> None:
    held, layouts = bank(ranks=(RANK, 8))
    one, two, wide = adapter(layouts[RANK], 1), adapter(layouts[RANK], 2), adapter(layouts[8], 3)
    for digest, each in (("one", one), ("two", two), ("wide", wide)):
        held.place(digest, each)
    model = Tiny().requires_grad_(requires_grad=False)
    banked = with_bank(model, held)
    rows = [
        [RowUse("one", 1.0)],
        [],
        [RowUse("two", 0.5), RowUse("one", -2.0)],
        [RowUse("wide", 1.0), RowUse("two", 0.25)],
    ]
    known = {"one": one, "two": two, "wide": wide}
    x = torch.randn(4, 7, IN)
    held.bind(rows)
    line, point = banked(x)
    for row, uses in enumerate(rows):
        wanted = by_hand(model, x[row : row + 1], [(known[use.digest], use.weight) for use in uses])
        assert torch.allclose(line[row : row + 1], wanted[0], atol=1e-5)
        assert torch.allclose(point[row : row + 1], wanted[1], atol=1e-5)
    plain = model(x)
    assert torch.equal(line[1], plain[0][1]), "a row without adapters adds exact zeros"


def test_a_slot_that_changed_hands_is_bound_anew() -> None:
    held, layouts = bank(slots=1)
    one, two = adapter(layouts[RANK], 1), adapter(layouts[RANK], 2)
    model = Tiny().requires_grad_(requires_grad=False)
    banked = with_bank(model, held)
    x = torch.randn(1, 3, IN)
    for digest, each in (("one", one), ("two", two), ("one", one)):
        held.place(digest, each)
        held.bind([[RowUse(digest, 1.0)]])
        assert torch.allclose(banked(x)[0], by_hand(model, x, [(each, 1.0)])[0], atol=1e-5)
        held.evict(digest)


def test_a_full_bank_refuses_and_keeps_what_it_holds() -> None:
    held, layouts = bank(slots=2)
    adapters = [adapter(layouts[RANK], seed) for seed in range(3)]
    held.place("0", adapters[0])
    held.place("1", adapters[1])
    with pytest.raises(BankFull):
        held.place("2", adapters[2])
    assert "2" not in held
    assert torch.equal(held.read("0"), adapters[0].block)
    held.evict("1")
    held.place("2", adapters[2])
    assert torch.equal(held.read("2"), adapters[2].block)
    assert torch.equal(held.read("0"), adapters[0].block)


def test_ten_thousand_swaps_change_no_base_weight_and_take_no_memory() -> None:
    held, layouts = bank(slots=4)
    adapters = [adapter(layouts[RANK], seed) for seed in range(9)]
    model = Tiny().requires_grad_(requires_grad=False)
    before = [weight.clone() for weight in model.parameters()]
    banked = with_bank(model, held)
    assert [p.data_ptr() for p in banked.parameters()] == [p.data_ptr() for p in model.parameters()]
    x = torch.randn(2, 3, IN)
    arena, bound = None, None
    for swap in range(10_000):
        digest = str(swap % 9)
        held.place(digest, adapters[swap % 9])
        held.bind([[RowUse(digest, 1.0)], []])
        if swap % 500 == 0:
            assert torch.allclose(banked(x)[0][:1], by_hand(model, x[:1], [(adapters[swap % 9], 1.0)])[0], atol=1e-5)
        held.evict(str((swap - 2) % 9))
        kind = held._classes[RANK]
        arena, bound = arena or kind.arena.data_ptr(), bound or kind.bound[0].blocks.data_ptr()
        assert (kind.arena.data_ptr(), kind.bound[0].blocks.data_ptr(), len(kind.bound)) == (arena, bound, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
