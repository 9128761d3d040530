"""Each shipped recipe on bases of real topology, beside bare diffusers; with every brand in benchmarks/recipes.py."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.recipes import NO_BRAND, Served, compared
from benchmarks.reduced_bases import RECIPES, World, models, write_brands
from benchmarks.single_files import Pipeline
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.base import load_base
from services.gpu_worker.engine.recipe import Recipe
from services.gpu_worker.engine.several_bases import SeveralBases

FILES = [file for family in ("sd15", "sdxl") for file in sorted((RECIPES / family).glob("*.toml"))]
#: One of those that differ in numbers only, as Hyper-SD's for 2, 4 and 8 steps do.
KINDS = list({re.sub(r"\d+", "", file.read_text()): file for file in FILES}.values())


@dataclass
class Family:
    """Its recipes in one engine, and brands in every dialect."""

    recipes: list[tuple[Recipe, Recipe]]  # from a folder, and from a file
    brands: dict[str, tuple[Path, Path]]
    served: Served


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Family]]:
    """Makes each family when it is first asked for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as stack:

        @cache
        def family(name: str) -> Family:
            folder = tmp_path_factory.mktemp(name)
            world = World(name, folder)
            brands = write_brands(world, folder)
            kinds = {file.stem for file in KINDS}
            pairs = zip(world.in_folder, world.in_file, strict=True)
            recipes = [(recipe, other) for recipe, other in pairs if recipe.name in kinds]
            published = {brand: file for brand, (file, _) in brands.items()}
            served = Served([recipe for recipe, _ in recipes], published, folder / "disk")
            stack.callback(served.engine.close)
            return Family(recipes, brands, served)

        yield family
    torch.set_num_threads(threads)


def weights(pipe: Pipeline) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{path}": tensor for name, model in models(pipe).items() for path, tensor in model.state_dict().items()
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("file", KINDS, ids=lambda file: str(file.stem))
def test_recipe_paints_what_bare_diffusers_paints_from_a_folder_and_has_the_same_weights_from_a_file(
    families: Callable[[str], Family], file: Path
) -> None:
    family = families(file.parent.name)
    ((number, (recipe, from_file)),) = [
        (number, pair) for number, pair in enumerate(family.recipes) if pair[0].name == file.stem
    ]
    engine = family.served.engine
    assert isinstance(engine, SeveralBases)
    bank = engine._by_recipe[recipe.name]
    assert isinstance(bank, BankEngine)
    ours, other = weights(bank._reference.pipe), weights(load_base(from_file, torch.device("cpu")))
    assert ours.keys() == other.keys()
    assert all(torch.equal(tensor, other[path]) for path, tensor in ours.items())
    brand = list(family.brands)[number % len(family.brands)]
    found = compared(recipe, family.served, {brand: family.brands[brand][1]})
    assert found[NO_BRAND][0] <= 1
    assert found[brand][0] <= 1, brand
    assert found[brand][1] >= 0.01, "the brand moves the picture too little for the comparison to tell"


def test_recipes_are_told_apart_by_their_names_and_say_how_many_steps_they_are_for() -> None:
    assert (len(FILES), len(KINDS)) == (23, 15)
    for file in FILES:
        recipe = tomllib.loads(file.read_text())
        assert recipe["name"] == file.stem
        if steps := re.search(r"(\d+)steps?", file.stem):
            assert recipe["steps"] == [recipe["default_steps"]] == [int(steps[1])]
            assert re.search(rf"\D{steps[1]}steps?\D", recipe["distill"]["source"])
