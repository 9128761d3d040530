"""Recipes that read well, and what their weights and samplers say of them: every mistake, each with its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.reduced_bases import World
from services.gpu_worker.engine.examination import Examined, examine
from services.gpu_worker.engine.recipe import Recipe, RecipeError
from services.gpu_worker.engine.recipe_file import read_recipe
from tests.unit.gpu_worker.engine.reduced import write_checker, write_world

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own

Worlds = Callable[[str], World]
BASE = 'source = "../../../bases/sd15"'
LORA = 'source = "../../../bases/distill/Hyper-SD15-1step-lora.safetensors"'
MULTISTEP = [
    ('"TCDScheduler"', '"DPMSolverMultistepScheduler"'),
    ("set_alpha_to_one = false\nclip_sample = false", ""),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Makes each family's files when they are first asked for."""
    return cache(lambda family: write_world(family, tmp_path_factory.mktemp(family)))


def changed(world: World, *changes: tuple[str, str], name: str = "sd15-hyper") -> Recipe:
    """A shipped recipe with some of its text replaced, beside the others: its paths lead to the same weights."""
    folder = world.folder / "deploy" / "recipes" / world.family
    text = (folder / f"{name}.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "changed.toml"
    file.write_text(text)
    return read_recipe(file)


def refusals(*recipes: Recipe) -> list[str]:
    (*_, last) = examine(recipes)
    with pytest.raises(RecipeError) as caught:
        last.refuse()
    file = last.recipe.file
    told = [f"{file}:{mistake.line}: {mistake.key} {mistake.problem}" for mistake in caught.value.mistakes]
    assert str(caught.value) == "\n".join(told)
    return told


def at(recipe: Recipe, start: str, key: str) -> str:
    """How a refusal begins whose line begins so."""
    lines = recipe.file.read_text().splitlines()
    return f"{recipe.file}:{next(n for n, line in enumerate(lines, start=1) if line.startswith(start))}: {key} "


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_shipped_recipes_are_in_order_and_what_they_consist_of_is_found(worlds: Worlds, family: str) -> None:
    every = 7
    recipes = worlds(family).in_folder[::every] + [
        replace(recipe, name=f"{recipe.name}-file") for recipe in worlds(family).in_file[2::every]
    ]
    for examined in examine(recipes):
        examined.refuse()
        recipe, base = examined.recipe, examined.base
        assert base and base.table.components == worlds(family).table.components
        assert base.pipeline.is_original == recipe.name.endswith("-file")
        assert sorted(examined.tables) == list(recipe.steps)
        fuses = recipe.distill is not None and recipe.distill.kind == "lora"
        assert examined.fused_layers == (len(base.table.components["unet"]) if fuses else 0)


def test_one_base_is_opened_once_for_all_its_recipes(worlds: Worlds) -> None:
    first, second = examine(worlds("sd15").in_folder[:2])
    assert first.base and first.base is second.base


def test_weights_of_another_family_and_weights_that_do_not_fit_are_refused_where_they_are_named(
    worlds: Worlds, tmp_path: Path
) -> None:
    sd15, sdxl = worlds("sd15"), worlds("sdxl")
    recipe = changed(sd15, (BASE, f'source = "{sdxl.folder}/bases/sdxl"'))
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, "source", "base.source")) and "is SDXL" in refusal
    weights = load_file(sd15.folder / "bases" / "sd15.safetensors")
    del weights["first_stage_model.decoder.conv_out.bias"]
    save_file(weights, tmp_path / "short.safetensors")
    config = f'config = "{sd15.folder}/bases/sd15"'
    recipe = changed(sd15, (BASE, f'source = "{tmp_path}/short.safetensors"\n{config}'))
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, "source", "base.source"))
    assert "vae lacks" in refusal


def test_a_distillation_for_another_base_is_refused_as_a_lora_and_as_a_unet(worlds: Worlds) -> None:
    sd15, other = worlds("sd15"), worlds("sdxl").folder / "bases" / "distill"
    lora = f'source = "{other}/Hyper-SDXL-1step-lora.safetensors"'
    recipe = changed(sd15, (LORA, lora))
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, lora, "distill.source")) and "is no LoRA for this base" in refusal
    unet = f'source = "{next(other.glob("*[uU]net*"))}"'
    recipe = changed(sd15, (LORA, f'{unet}\nkind = "unet"'))
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, unet, "distill.source")) and "is no UNet of this base" in refusal


@pytest.mark.parametrize(
    ("changes", "start", "key", "words"),
    [
        (MULTISTEP, "class", "sampler.class", "can't share a batch"),
        ([('"TCDScheduler"', '"BestScheduler"')], "class", "sampler.class", "is no scheduler of diffusers"),
        ([("clip_sample =", "clip_sampel =")], "[sampler.config]", "sampler.config", "clip_sampel"),
        ([("steps = [1, 2, 3, 4, 5, 6, 7, 8]", "steps = [4, 60]")], "steps", "steps", "do not suit TCDScheduler"),
        ([('safety = "off"', 'safety = "checker"')], "safety", "safety", "is no folder; name one in base.safety_ch"),
    ],
)
def test_a_sampler_or_a_checker_that_can_t_serve_is_refused_with_its_line(
    worlds: Worlds, changes: list[tuple[str, str]], start: str, key: str, words: str
) -> None:
    recipe = changed(worlds("sd15"), *changes)
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, start, key))
    assert words in refusal


def test_all_mistakes_of_a_recipe_are_told_at_once_in_the_order_of_their_lines(worlds: Worlds) -> None:
    recipe = changed(
        worlds("sd15"),
        ('safety = "off"', 'safety = "checker"'),
        (LORA, f'source = "{worlds("sdxl").folder}/bases/distill/Hyper-SDXL-1step-lora.safetensors"'),
        *MULTISTEP,
    )
    told = refusals(recipe)
    assert [line.split(": ")[1].split(" ")[0] for line in told] == ["safety", "distill.source", "sampler.class"]


def test_a_safety_checker_is_looked_into(worlds: Worlds, tmp_path: Path) -> None:
    folder = write_checker(tmp_path / "checker")
    checked = ('safety = "off"', 'safety = "checker"'), (BASE, f'{BASE}\nsafety_checker = "{folder}"')
    (examined,) = examine([changed(worlds("sd15"), *checked)])
    assert not examined.mistakes and examined.checker and examined.checker.folder == folder
    weights = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in weights.items() if n != "concept_embeds"}, folder / "model.safetensors")
    recipe = changed(worlds("sd15"), *checked)
    (refusal,) = refusals(recipe)
    assert refusal.startswith(at(recipe, "safety", "safety")) and "lacks its weights concept_embeds" in refusal
    (folder / "model.safetensors").unlink()
    assert "asks for a checker that can't be loaded" in refusals(recipe)[0]


def test_recipes_that_can_t_share_a_bank_or_have_one_name_are_refused_together(worlds: Worlds) -> None:
    first = worlds("sd15").in_folder[0]
    other = changed(worlds("sd15"), ('"bfloat16"', '"float32"'))
    (refusal,) = refusals(first, other)
    assert refusal.startswith(at(other, "[base]", "base")) and f"with that of {first.file}" in refusal
    assert not any(each.mistakes for each in examine([first, other], batched=False))
    twin = changed(worlds("sd15"), ('"bfloat16"', f'"{first.dtype}"'), ('"sd15-hyper"', f'"{first.name}"'))
    (refusal,) = refusals(first, twin)
    assert refusal.startswith(at(twin, "name", "name")) and f"is that of {first.file} too" in refusal


def test_a_sampler_that_keeps_a_memory_is_no_mistake_where_nothing_is_batched(worlds: Worlds) -> None:
    recipe = changed(worlds("sd15"), *MULTISTEP)
    (examined,) = examine([recipe], batched=False)
    assert examined == Examined(recipe, base=examined.base, fused_layers=examined.fused_layers)
