"""What is counted of headers is what loaded models, the bank and a decoding VAE then hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from benchmarks.reduced_bases import World
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import painting_engine
from services.gpu_worker.engine.bank import SlotBank
from services.gpu_worker.engine.base import load_base, models_of
from services.gpu_worker.engine.compiler import BlockLayout
from services.gpu_worker.engine.examination import examine
from services.gpu_worker.engine.ledger import (
    DeviceTooSmall,
    HeldBank,
    HeldBase,
    Ledger,
    check_device,
    decoding_bytes,
    ledger_of,
)
from services.gpu_worker.engine.recipe import Recipe, RecipeError
from services.gpu_worker.engine.safety import SafetyChecker
from services.gpu_worker.settings import WorkerSettings
from tests.unit.gpu_worker.engine.reduced import write_checker, write_world

Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Makes each family's files when they are first asked for."""
    return cache(lambda family: write_world(family, tmp_path_factory.mktemp(family)))


def named(recipes: list[Recipe], name: str, **changes: object) -> Recipe:
    (recipe,) = [recipe for recipe in recipes if recipe.name == name]
    return replace(recipe, **changes)  # type: ignore[arg-type]  # any field


def counted(*recipes: Recipe, slots: Mapping[int, int] | None = None, rows: int = 4) -> Ledger:
    examined = examine(recipes)
    assert [each.mistakes for each in examined] == [()] * len(recipes)
    return ledger_of(examined, slots={8: 8} if slots is None else slots, rows=rows)


# Against what is really there


@pytest.mark.parametrize(
    ("name", "dtype", "source", "bytes_of_vae"),
    [
        ("sdxl-hyper", "float16", "file", 4),  # in float16 it would paint black
        ("sdxl-hyper-1step-unet", "bfloat16", "folder", 2),
        ("sd15-hyper", "float16", "folder", 2),
    ],
)
def test_loaded_models_hold_the_bytes_that_were_counted_of_their_headers(
    worlds: Worlds, name: str, dtype: str, source: str, bytes_of_vae: int
) -> None:
    world = worlds(name[:4])
    recipe = named(world.in_file if source == "file" else world.in_folder, name, dtype=dtype)
    (base,) = counted(recipe).bases
    models = models_of(load_base(recipe, torch.device("cpu")))
    loaded = {name: sum(parameter.nbytes for parameter in model.parameters()) for name, model in models.items()}
    assert base.models == loaded
    assert base.models["vae"] == bytes_of_vae * sum(parameter.numel() for parameter in models["vae"].parameters())
    assert base.size == sum(loaded.values())


def test_a_safety_checker_is_counted_once_a_base_in_the_base_s_dtype(worlds: Worlds, tmp_path: Path) -> None:
    folder = write_checker(tmp_path / "checker")
    recipes = [
        replace(recipe, dtype="float16", safety=True, base=replace(recipe.base, safety_checker=folder))
        for recipe in worlds("sd15").in_folder[:2]
    ]
    recipes[1] = replace(recipes[1], distill=recipes[0].distill)
    (base,) = counted(*recipes).bases
    checker = SafetyChecker(folder, torch.device("cpu"), torch.float16)._model
    assert base.models["safety_checker"] == sum(parameter.nbytes for parameter in checker.parameters())


def test_a_bank_takes_the_bytes_that_were_counted_with_all_its_rows_bound(worlds: Worlds) -> None:
    slots = {8: 7, 32: 6}
    recipe = named(worlds("sd15").in_folder, "sd15-hyper", dtype="bfloat16")
    (held,) = counted(recipe, slots=slots, rows=4).banks
    layouts = {rank: BlockLayout.of(worlds("sd15").table, rank=rank, dtype=torch.bfloat16) for rank in slots}
    bank = SlotBank(layouts, slots=slots, rows=4, device=torch.device("cpu"), dtype=torch.bfloat16)
    taken = 0
    for rank in slots:
        kind = bank._classes[rank]
        bound = [kind.use(number) for number in range(3)]  # as many adapters as a request may use
        taken += kind.arena.nbytes + sum(each.blocks.nbytes for each in bound)
    assert held.size == taken


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made under it, and the most that were there at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401  # torch's own
        made = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                key, size = storage._cdata, storage.nbytes()
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, size)
        return made

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def test_what_a_vae_makes_while_it_decodes_leaves_the_reserve_two_fifths_for_convolutions() -> None:
    channels = (128, 256, 512, 512)  # of SD 1.5 and SDXL
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=channels,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
        latents = torch.empty(2, 4, 64, 96)
    with torch.inference_mode(), Living() as living:
        vae.decode(latents)
    reserve = 2 * decoding_bytes(768, 512, channels=channels, itemsize=4)
    assert 0.55 * reserve < living.most <= 0.61 * reserve


# Several recipes


def test_recipes_of_the_same_weights_share_a_base_and_those_of_a_family_a_bank(worlds: Worlds) -> None:
    hyper = named(worlds("sd15").in_folder, "sd15-hyper", dtype="float32")
    again = replace(hyper, name="again", sizes=((128, 64),))
    other = named(worlds("sd15").in_folder, "sd15-lcm", dtype="float32")
    wide = named(worlds("sdxl").in_folder, "sdxl-hyper", dtype="float32")
    ledger = counted(hyper, other, wide, again)
    assert [base.recipes for base in ledger.bases] == [("sd15-hyper", "again"), ("sd15-lcm",), ("sdxl-hyper",)]
    assert [bank.family for bank in ledger.banks] == ["sd15", "sdxl"]
    assert ledger.bases[0].decoding == 2 * ledger.bases[1].decoding  # the larger of its two sizes
    assert ledger.reserve == ledger.bases[0].decoding  # bases take turns
    parts = [base.size for base in ledger.bases] + [bank.size for bank in ledger.banks]
    assert ledger.total == sum(parts) + ledger.reserve
    assert counted(hyper, slots={}, rows=1).banks == ()


def test_the_reserve_is_for_as_many_pictures_as_are_decoded_at_once(worlds: Worlds) -> None:
    small = named(worlds("sdxl").in_folder, "sdxl-hyper", dtype="float32")
    large = replace(small, sizes=((1024, 1024),))
    per_pixel = counted(small, rows=1).reserve / (64 * 64)
    assert counted(small, rows=4).reserve == 4 * 64 * 64 * per_pixel
    assert counted(large, rows=4).reserve == 2 * 1024 * 1024 * per_pixel
    assert counted(large, rows=1).reserve == 1024 * 1024 * per_pixel


# What fits

BANK = HeldBank("sdxl", slots={8: 10}, blocks={8: 100, 16: 200}, rows=2)
BASE = HeldBase(
    source=Path("bases/sdxl"),
    family="sdxl",
    dtype="bfloat16",
    recipes=("sdxl-hyper", "sdxl-lcm"),
    models={"unet": 5 << 30, "vae": 1 << 30},
    decoding=2 << 20,
)
LEDGER = Ledger((BASE,), (BANK,))


def test_as_many_brands_fit_as_leave_no_room_for_one_more() -> None:
    assert BANK.size == 100 * (10 + 1 + 2 * 3)
    assert LEDGER.brands(BANK, 8, LEDGER.total) == 10
    assert LEDGER.brands(BANK, 8, LEDGER.total - 1) == 9
    assert LEDGER.brands(BANK, 8, LEDGER.total + 100) == 11
    assert LEDGER.brands(BANK, 16, LEDGER.total + 400) == 3
    assert LEDGER.brands(BANK, 16, 1000) == 0


def test_a_budget_that_is_one_byte_short_is_refused_with_what_takes_how_much_and_what_to_change() -> None:
    LEDGER.check(LEDGER.total)
    with pytest.raises(DeviceTooSmall) as caught:
        LEDGER.check(LEDGER.total - 1)
    first, base, bank, decoding, advice = str(caught.value).splitlines()
    assert "WORKER_DEVICE_BYTES" in first
    assert "6.0 GiB for sdxl-hyper, sdxl-lcm in bfloat16: unet 5.0 GiB, vae 1.0 GiB; bases/sdxl" in base
    assert "1.7 KiB for the bank of sdxl, WORKER_SLOTS=8:10" in bank
    assert "2.0 MiB to decode pictures" in decoding
    assert all(words in advice for words in ("fewer slots", "smaller batches", "a dtype of 16 bits", "another worker"))


# Before a worker loads anything


def settings(place: Path, **changes: Any) -> WorkerSettings:  # noqa: ANN401  # any setting
    return WorkerSettings(name="w", registry="none", disk_cache=place, slots={8: 8}, batch_sizes=(1, 4), **changes)


def test_a_worker_refuses_recipes_that_its_device_can_t_hold_before_it_loads_them(
    worlds: Worlds, tmp_path: Path
) -> None:
    recipes = [named(worlds("sd15").in_folder, "sd15-hyper")]
    needs = counted(*recipes).total
    painting_engine(recipes, settings(tmp_path, device_bytes=needs), steady_clock())
    with pytest.raises(DeviceTooSmall, match="sd15-hyper"):
        painting_engine(recipes, settings(tmp_path, device_bytes=needs - 1), steady_clock())
    without_bank = counted(*recipes, slots={}, rows=1).total
    painting_engine(recipes, settings(tmp_path, device_bytes=without_bank, engine="reference"), steady_clock())


def test_without_a_limit_a_worker_on_a_cpu_asks_nothing_and_with_one_it_tells_mistakes_first(
    worlds: Worlds, tmp_path: Path
) -> None:
    recipe = named(worlds("sd15").in_folder, "sd15-hyper")
    lost = replace(recipe, base=replace(recipe.base, path=tmp_path / "nowhere"))
    asked = {"device": "cpu", "slots": {8: 8}, "rows": 4, "batched": True}
    check_device([lost], limit=0, **asked)  # type: ignore[arg-type]  # its values are of several types
    with pytest.raises(RecipeError, match=r"base\.source"):
        check_device([lost], limit=1, **asked)  # type: ignore[arg-type]  # as above
