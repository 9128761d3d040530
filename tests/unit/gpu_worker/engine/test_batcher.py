"""Rows of many pictures in one batch: who sits where, how large it is, and whose fault it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from looksmith.lora import Module, ModuleTable
from services.gpu_worker.engine.bank import SlotBank
from services.gpu_worker.engine.batcher import Batcher, Picture
from services.gpu_worker.engine.compiler import BlockLayout
from services.gpu_worker.engine.sampler_table import SamplerStep, SamplerTable

CPU = torch.device("cpu")
SHAPE = (2, 4, 4)
POISON = 666.0


class Unet:
    """Says what it is given, plus the first number of each row's text; fails where a row's text is poison."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.calls = 0

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor],
        return_dict: bool,
    ) -> tuple[Tensor]:
        self.calls += 1
        self.batches.append(len(sample))
        texts = encoder_hidden_states[:, 0, 0]
        if (texts == POISON).any():
            raise RuntimeError("poison")
        return (sample + texts[:, None, None, None],)


def batcher(unet: Unet, *, buckets: tuple[int, ...] = (1, 2, 4)) -> Batcher:
    table = ModuleTable("studio", "", {"unet": {"attentions.0.to_q": Module("linear", 4, 4)}})
    layouts = {4: BlockLayout.of(table, rank=4, dtype=torch.float32)}
    bank = SlotBank(layouts, slots={4: 2}, rows=max(buckets), device=CPU, dtype=torch.float32)
    return Batcher(unet, bank, buckets=buckets, device=CPU)


def picture(
    text: float = 1.0, *, steps: int = 2, guidance: float = 0.0, pinned: bool = False, start: float = 0.0, side: int = 4
) -> Picture:
    step = SamplerStep(
        timestep=1.0,
        input_scale=1.0,
        keep=0.0,
        move=1.0,
        noise=0.0,
        draws_noise=False,
        estimate_keep=0.0,
        estimate_move=1.0,
    )
    rows = [0.0, text] if guidance > 1 else [text]
    return Picture(
        table=SamplerTable(1.0, (step,) * steps),
        embeds=torch.tensor(rows)[:, None, None].expand(-1, 3, 5).clone(),
        added={},
        uses=(),
        guidance=guidance,
        latents=torch.full((2, side, side), start),
        generator=torch.Generator().manual_seed(0),
        pinned=pinned,
    )


def value(one: Picture) -> float:
    assert (one.latents == one.latents[0, 0, 0]).all()
    return float(one.latents[0, 0, 0])


def test_every_picture_steps_by_its_own_text_and_joins_and_leaves_at_any_step() -> None:
    unet = Unet()
    batch = batcher(unet)
    first, second = picture(1.0, steps=3), picture(10.0, steps=1)
    batch.add(first)
    batch.step()
    batch.add(second)
    assert batch.step() == {first: None, second: None}
    assert second.done
    batch.remove(second)
    batch.step()
    assert (value(first), value(second)) == (3.0, 10.0)
    assert unet.batches == [1, 2, 1]
    assert first.largest_batch == 2


def test_guided_picture_takes_two_rows_and_moves_away_from_the_unguided_one() -> None:
    unet = Unet()
    batch = batcher(unet)
    guided = picture(2.0, guidance=3.0, steps=1)
    batch.add(guided)
    assert batch.free_rows == 2
    batch.step()
    assert value(guided) == 0.0 + 3.0 * 2.0
    assert unet.batches == [2]


def test_rows_that_stay_keep_their_seats_when_others_leave() -> None:
    batch = batcher(Unet())
    pictures = [picture(float(i), steps=8) for i in range(4)]
    for each in pictures:
        batch.add(each)
    batch.step()
    batch.remove(pictures[0])
    batch.step()
    assert [p.seats for p in pictures[1:]] == [[1], [2], [3]]
    batch.remove(pictures[1])
    batch.step()
    assert sorted(seat for p in pictures[2:] for seat in p.seats) == [0, 1], "a smaller batch: they move"


def test_a_pinned_picture_always_sits_in_the_largest_batch() -> None:
    unet = Unet()
    batch = batcher(unet)
    batch.add(picture(pinned=True))
    batch.step()
    assert unet.batches == [4]


def test_pictures_of_another_size_take_turns() -> None:
    batch = batcher(Unet())
    small, large = picture(side=4, steps=2), picture(side=8, steps=2)
    batch.add(small)
    batch.add(large)
    assert [set(batch.step()) for _ in range(4)] == [{small}, {large}, {small}, {large}]


def test_a_picture_that_breaks_the_unet_fails_alone() -> None:
    unet = Unet()
    batch = batcher(unet)
    good, bad, other = picture(1.0), picture(POISON), picture(5.0)
    for each in (good, bad, other):
        batch.add(each)
    told = batch.step()
    assert isinstance(told[bad], RuntimeError)
    assert (told[good], told[other]) == (None, None)
    assert (value(good), value(other), good.step, bad.step) == (1.0, 5.0, 1, 0)


def test_a_picture_whose_numbers_overflow_fails_alone() -> None:
    batch = batcher(Unet())
    good, bad = picture(1.0), picture(1.0, start=float("inf"))
    batch.add(good)
    batch.add(bad)
    told = batch.step()
    assert isinstance(told[bad], ArithmeticError)
    assert told[good] is None
    assert value(good) == 1.0
