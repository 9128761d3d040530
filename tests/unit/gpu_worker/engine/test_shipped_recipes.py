"""Each shipped recipe on bases of real topology, beside bare diffusers; with every brand in benchmarks/recipes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.recipes import NO_BRAND, Served, compared
from benchmarks.reduced_bases import RECIPES, World, models, write_brands
from services.gpu_worker.engine.base import load_base
from services.gpu_worker.engine.recipe import Recipe

FILES = [file for family in ("sd15", "sdxl") for file in sorted((RECIPES / family).glob("*.toml"))]


@dataclass
class Family:
    """Its recipes in one engine, and brands in every dialect."""

    world: World
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
            served = Served(world.in_folder, {brand: file for brand, (file, _) in brands.items()}, folder / "disk")
            stack.callback(served.engine.close)
            return Family(world, brands, served)

        yield family
    torch.set_num_threads(threads)


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    pipe = load_base(recipe, torch.device("cpu"))
    return {
        f"{name}.{path}": tensor for name, model in models(pipe).items() for path, tensor in model.state_dict().items()
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_recipe_paints_what_bare_diffusers_paints_from_a_folder_and_has_the_same_weights_from_a_file(
    families: Callable[[str], Family], file: Path
) -> None:
    family = families(file.parent.name)
    (number,) = [number for number, recipe in enumerate(family.world.in_folder) if recipe.name == file.stem]
    recipe = family.world.in_folder[number]
    brand = list(family.brands)[number % len(family.brands)]
    found = compared(recipe, family.served, {brand: family.brands[brand][1]})
    assert found[NO_BRAND][0] <= 1
    assert found[brand][0] <= 1, brand
    assert found[brand][1] >= 0.01, "the brand moves the picture too little for the comparison to tell"
    ours, other = weights(recipe), weights(family.world.in_file[number])
    assert ours.keys() == other.keys()
    assert all(torch.equal(tensor, other[path]) for path, tensor in ours.items())


def test_recipes_are_told_apart_by_their_names() -> None:
    assert len(FILES) == 23
    assert all(f'name = "{file.stem}"' in file.read_text() for file in FILES)
