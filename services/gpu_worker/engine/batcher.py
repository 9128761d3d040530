"""One denoising step for many pictures at once: of any brands, samplers, step counts, guidance and progress.

Pictures join and leave between steps. A batch has one of a few fixed sizes and is padded with rows that use nothing,
so that a row's result depends on that size only. Knows nothing about jobs, prompts or where adapters come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from services.gpu_worker.engine.bank import RowUse, SlotBank
from services.gpu_worker.engine.sampler_table import SamplerTable


class Unet(Protocol):
    """As diffusers' UNet2DConditionModel is called here."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor],
        return_dict: bool,
    ) -> tuple[Tensor]: ...


@dataclass(eq=False)
class Picture:
    """One picture under way."""

    table: SamplerTable
    embeds: Tensor  # [1, tokens, width], or [2, tokens, width] where guided: the unconditional ones first
    uses: tuple[RowUse, ...]
    guidance: float  # up to 1: none, and one row
    latents: Tensor  # [channels, height, width]
    added: Mapping[str, Tensor]  # what else the UNet is told, each [rows, ...]
    generator: torch.Generator
    pinned: bool = False  # its batches always have the largest size, so that every bit can be painted again
    step: int = 0
    foreseen: Tensor | None = field(default=None, repr=False)  # what the latest step thinks the end will be
    noise: Tensor | None = field(default=None, repr=False)  # of the step to come, where it draws some
    largest_batch: int = 0  # rows, padding left out
    seats: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return 2 if self.guidance > 1 else 1

    @property
    def done(self) -> bool:
        return self.step == len(self.table.steps)


class Batcher:
    """Steps the pictures of one latent shape after those of another; at most ``buckets[-1]`` rows are under way."""

    def __init__(self, unet: Unet, bank: SlotBank, *, buckets: Sequence[int], device: torch.device) -> None:
        self._unet, self._bank, self._device = unet, bank, device
        self._buckets = sorted(buckets)
        self._shapes: list[tuple[torch.Size, list[Picture]]] = []  # the one to be stepped next comes first

    @property
    def pictures(self) -> list[Picture]:
        return [picture for _, pictures in self._shapes for picture in pictures]

    @property
    def free_rows(self) -> int:
        return self._buckets[-1] - sum(picture.rows for picture in self.pictures)

    def add(self, picture: Picture) -> None:
        for shape, pictures in self._shapes:
            if shape == picture.latents.shape:
                pictures.append(picture)
                return
        self._shapes.append((picture.latents.shape, [picture]))

    def remove(self, picture: Picture) -> None:
        for _, pictures in self._shapes:
            if picture in pictures:
                pictures.remove(picture)
        self._shapes = [(shape, pictures) for shape, pictures in self._shapes if pictures]

    def step(self) -> dict[Picture, Exception | None]:
        """Steps every picture of one shape. What went wrong with a picture is told beside it, and hurts no other."""
        if not self._shapes:
            return {}
        shape, pictures = self._shapes.pop(0)
        self._shapes.append((shape, pictures))
        told: dict[Picture, Exception | None] = dict.fromkeys(pictures)
        try:
            self._advance(pictures)
        except Exception as error:  # noqa: BLE001  # whatever torch raises: find out whose fault it was
            if len(pictures) == 1:
                return {pictures[0]: error}
            for picture in pictures:
                try:
                    self._advance([picture])
                except Exception as own:  # noqa: BLE001  # as above
                    told[picture] = own
        for picture in pictures:
            if told[picture] is None and not torch.isfinite(picture.latents).all():
                told[picture] = ArithmeticError("its latents are no longer finite")
        return told

    def _advance(self, pictures: Sequence[Picture]) -> None:
        # 1. Seat the rows: where they sat before, if the batch has that many
        bucket = self._bucket(pictures)
        seated = _seat(pictures, bucket)
        # 2. Gather what each row brings
        first = pictures[0]
        like = first.latents
        x = like.new_zeros((bucket, *like.shape))
        embeds = first.embeds.new_zeros((bucket, *first.embeds.shape[1:]))
        added = {name: each.new_zeros((bucket, *each.shape[1:])) for name, each in first.added.items()}
        timesteps = torch.zeros(bucket)
        uses: list[tuple[RowUse, ...]] = [()] * bucket
        for picture in pictures:
            now = picture.table.steps[picture.step]
            if now.draws_noise and picture.noise is None:
                picture.noise = torch.randn((1, *like.shape), generator=picture.generator, dtype=like.dtype)[0]
            for row, seat in enumerate(picture.seats):
                x[seat] = picture.latents * now.input_scale
                embeds[seat] = picture.embeds[row]
                for name, each in picture.added.items():
                    added[name][seat] = each[row]
                timesteps[seat] = now.timestep
                uses[seat] = picture.uses
        # 3. Ask the UNet
        self._bank.bind(uses)
        said = self._unet(
            x,
            timesteps.to(self._device),
            encoder_hidden_states=embeds,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        # 4. Step each picture by its own table, all or none
        wide = torch.promote_types(like.dtype, torch.float32)
        stepped = []
        for picture in pictures:
            now = picture.table.steps[picture.step]
            e = said[picture.seats[-1]]
            if picture.rows == 2:
                without = said[picture.seats[0]]
                e = without + picture.guidance * (e - without)
            before, e = picture.latents.to(wide), e.to(wide)
            after = now.keep * before + now.move * e
            if picture.noise is not None:
                after += now.noise * picture.noise.to(self._device, wide)
            foreseen = now.estimate_keep * before + now.estimate_move * e
            stepped.append((picture, after.to(like.dtype), foreseen.to(like.dtype)))
        for picture, after, foreseen in stepped:
            picture.latents, picture.foreseen, picture.noise = after, foreseen, None
            picture.step += 1
            picture.largest_batch = max(picture.largest_batch, seated)

    def _bucket(self, pictures: Sequence[Picture]) -> int:
        if any(picture.pinned for picture in pictures):
            return self._buckets[-1]
        rows = sum(picture.rows for picture in pictures)
        return next(bucket for bucket in self._buckets if bucket >= rows)


def _seat(pictures: Sequence[Picture], bucket: int) -> int:
    """Gives every row a seat below ``bucket``: where it can, its own, so that its adapter need not be bound again."""
    taken: set[int] = set()
    for picture in pictures:
        if len(picture.seats) == picture.rows and all(s < bucket and s not in taken for s in picture.seats):
            taken.update(picture.seats)
        else:
            picture.seats = []
    free = [seat for seat in range(bucket) if seat not in taken]
    for picture in pictures:
        while len(picture.seats) < picture.rows:
            picture.seats.append(free.pop(0))
            taken.add(picture.seats[-1])
    return len(taken)
