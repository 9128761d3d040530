from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.gpu_worker.engine.recipe import RecipeError, base_digest, read_recipe

SHIPPED = Path(__file__).parents[4] / "deploy" / "recipes" / "studio.toml"


def changed(folder: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert old in text
    file = folder / "bad.toml"
    file.write_text(text.replace(old, new))
    return file


def test_shipped_recipe_says_how_the_studio_model_is_painted() -> None:
    recipe = read_recipe(SHIPPED)
    assert (recipe.name, recipe.family, recipe.sampler.name) == ("studio", "studio", "DDIMScheduler")
    assert (recipe.steps, recipe.default_steps, recipe.sizes) == ((1, 2, 4, 8), 4, ((128, 128),))
    assert recipe.max_guidance == 0
    assert recipe.base.resolve() == SHIPPED.parents[2] / "models" / "studio" / "base"
    assert recipe.distill and recipe.distill.scale == 1.0


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "studio"', 'name = "Studio Model"', "name"),
        ("steps = [1, 2, 4, 8]", "steps = [0, 4]", "steps"),
        ("default_steps = 4", "default_steps = 3", "default_steps"),
        ("sizes = [[128, 128]]", "sizes = [[128, 130]]", "sizes"),
        ('dtype = "float32"', 'dtype = "int4"', "dtype"),
        ('family = "studio"', 'family = "Studio!"', "base.family"),
        ('family = "studio"', "", "base.family"),
        ('class = "DDIMScheduler"', "class = 3", "sampler.class"),
        ("scale = 1.0", 'scale = "full"', "distill.scale"),
        ("scale = 1.0", "scale = 1.0\nrank = 3", "distill.rank"),
        ("strict_base = false", 'strict_base = "no"', "strict_base"),
        ("default = 0.0", "default = 3.0", "guidance.default"),
        ("[sampler.config]", "[sampler.confog]", "sampler.confog"),
    ],
)
def test_bad_recipe_is_refused_with_its_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    file = changed(tmp_path, old, new)
    with pytest.raises(RecipeError) as caught:
        read_recipe(file)
    assert str(caught.value).startswith(f"{file}: {key} ")


def test_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("name = ")
    for name in ("broken.toml", "missing.toml"):
        with pytest.raises(RecipeError, match=name):
            read_recipe(tmp_path / name)


def test_digest_changes_with_whatever_changes_a_picture_and_with_nothing_else(tmp_path: Path) -> None:
    recipe = read_recipe(SHIPPED)
    digests = {"base_digest": "b" * 64, "distill_digest": "d" * 64}
    digest = recipe.facts(**digests).digest
    commented = changed(tmp_path, "# The distillation leaves", "# Another remark: it leaves")
    assert read_recipe(commented).facts(**digests).digest == digest
    others = [
        replace(recipe, default_steps=2).facts(**digests),
        replace(recipe, sampler=replace(recipe.sampler, eta=0.5)).facts(**digests),
        replace(recipe, sampler=replace(recipe.sampler, config={})).facts(**digests),
        recipe.facts(base_digest="c" * 64, distill_digest="d" * 64),
        recipe.facts(base_digest="b" * 64, distill_digest="e" * 64),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def test_base_digest_names_weights_and_where_they_lie_and_ignores_the_rest(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"weights")
    before = base_digest(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert base_digest(tmp_path) == before
    (tmp_path / "unet" / "a.safetensors").rename(tmp_path / "unet" / "b.safetensors")
    renamed = base_digest(tmp_path)
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"weighty")
    assert len({before, renamed, base_digest(tmp_path)}) == 3


def test_missing_weights_are_named_by_file_and_key(tmp_path: Path) -> None:
    recipe = replace(read_recipe(SHIPPED), distill=None, base=tmp_path)
    with pytest.raises(RecipeError, match=r"studio\.toml: base\.source names no folder"):
        recipe.weighed()
