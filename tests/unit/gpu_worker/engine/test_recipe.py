from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from looksmith.bases import InMemoryBaseStore, pull, push
from services.gpu_worker.engine.recipe import Base, RecipeError, base_digest, weight_files
from services.gpu_worker.engine.recipe_file import lines_of, read_recipe
from services.gpu_worker.engine.sources import Sources

ROOT = Path(__file__).parents[4]
SHIPPED = ROOT / "deploy" / "recipes" / "studio.toml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def changed(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped recipe with some of its text replaced, elsewhere: its paths still lead to the shipped weights."""
    text = SHIPPED.read_text().replace("../../models", str(ROOT / "models"))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "bad.toml"
    file.write_text(text)
    return file


def refusals(file: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(file)
    return str(caught.value).splitlines()


def line_of(file: Path, start: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), start=1) if line.startswith(start))


def test_shipped_recipe_says_how_the_studio_model_is_painted() -> None:
    recipe = read_recipe(SHIPPED)
    assert (recipe.name, recipe.family, recipe.sampler.name) == ("studio", "studio", "DDIMScheduler")
    assert (recipe.steps, recipe.default_steps, recipe.sizes) == ((1, 2, 4, 8), 4, ((128, 128),))
    assert recipe.max_guidance == 0
    assert recipe.base.path == ROOT / "models" / "studio" / "base"
    assert recipe.distill and recipe.distill.scale == 1.0


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ('name = "studio"', 'name = "Studio Model"', "name", "name"),
        ("steps = [1, 2, 4, 8]", "steps = [0, 4]", "steps", "steps"),
        ("default_steps = 4", "default_steps = 3", "default_steps", "default_steps"),
        ("sizes = [[128, 128]]", "sizes = [[128, 130]]", "sizes", "sizes"),
        ('dtype = "float32"', 'dtype = "int4"', "dtype", "dtype"),
        ('dtype = "float32"', 'dtype = "float32"\nclip_skip = 12', "clip_skip", "clip_skip"),
        ('dtype = "float32"', 'dtype = "float32"\nsafety = "on"', "safety", "safety"),
        ('dtype = "float32"', 'dtype = "float32"\nlicence = 3', "licence", "licence"),
        ('family = "studio"', 'family = "Studio!"', "base.family", "family"),
        ('family = "studio"', "", "base.family", "[base]"),
        ('family = "studio"', 'family = "studio"\nsha256 = "abc"', "base.sha256", "sha256"),
        ('class = "DDIMScheduler"', "class = 3", "sampler.class", "class"),
        ("scale = 1.0", 'scale = "full"', "distill.scale", "scale"),
        ("scale = 1.0", "scale = 1.0\nrank = 3", "distill.rank", "rank"),
        ("scale = 1.0", 'kind = "merge"', "distill.kind", "kind"),
        ("scale = 1.0", 'scale = 0.5\nkind = "unet"', "distill.scale", "scale"),
        ("strict_base = false", 'strict_base = "no"', "strict_base", "strict_base"),
        ("default = 0.0", "default = 3.0", "guidance.default", "default ="),
        ("[sampler.config]", "[sampler.confog]", "sampler.confog", "[sampler.confog]"),
        ("eta = 0.0", "eta = 0.0\ntimesteps.3 = [2, 1, 0]", "sampler.timesteps.3", "timesteps.3"),
        ("eta = 0.0", "eta = 0.0\ntimesteps.2 = [2, 1, 0]", "sampler.timesteps.2", "timesteps.2"),
        ("eta = 0.0", "eta = 0.0\ntimesteps.2 = [400, 800]", "sampler.timesteps.2", "timesteps.2"),
        ("eta = 0.0", "eta = 0.0\ntimesteps.two = [800, 400]", "sampler.timesteps.two", "timesteps.two"),
    ],
)
def test_bad_recipe_is_refused_with_its_file_line_and_key(
    tmp_path: Path, old: str, new: str, key: str, line: str
) -> None:
    file = changed(tmp_path, (old, new))
    (refusal,) = refusals(file)
    assert refusal.startswith(f"{file}:{line_of(file, line)}: {key} ")


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    file = changed(
        tmp_path,
        ("steps = [1, 2, 4, 8]", "steps = [0]"),
        ('family = "studio"', 'family = "studio"\nfamilly = "x"'),
        ("/base", "/bass"),
        ('class = "DDIMScheduler"', ""),
    )
    told = refusals(file)
    assert [line.split(": ")[1].split(" ")[0] for line in told] == [
        "steps",
        "base.source",
        "base.familly",
        "sampler.class",
    ]
    numbers = [int(line.split(":")[1]) for line in told]
    assert numbers == sorted(numbers)


def test_a_base_of_a_public_family_says_what_becomes_of_unsafe_pictures(tmp_path: Path) -> None:
    for family in ("sd15", "sdxl"):
        (refusal,) = refusals(changed(tmp_path, ('family = "studio"', f'family = "{family}"')))
        assert "safety is missing" in refusal and 'safety = "off"' in refusal
    file = changed(tmp_path, ('family = "studio"', 'family = "sd15"'), ("steps = [", 'safety = "off"\nsteps = ['))
    assert read_recipe(file).safety is False


def test_lines_are_found_by_their_dotted_names() -> None:
    text = 'a = 1\n\n[base]\n# b = 2\nb = "x"\n[ sampler . "config" ]\nc = [\n  1,\n]\n"d" = 3\ne.f = 4\n'
    assert lines_of(text) == {
        "a": 1,
        "base": 3,
        "base.b": 5,
        "sampler.config": 6,
        "sampler.config.c": 7,
        "sampler.config.d": 10,
        "sampler.config.e.f": 11,
    }


def test_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("name = ")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("broken.toml", "binary.toml", "missing.toml"):
        with pytest.raises(RecipeError, match=name):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hub://stabilityai/stable-diffusion-xl-base-1.0", "no revision of stabilityai/stable-diffusion-xl-base-1.0"),
        ("hub://stabilityai/stable-diffusion-xl-base-1.0@main", "revision 'main'"),
        ("hub://stabilityai/stable-diffusion-xl-base-1.0@0123456", "revision '0123456'"),
        ("hub://sdxl", "must be hub://ORGANISATION/NAME@COMMIT"),
        ("stabilityai/stable-diffusion-xl-base-1.0@main", "hub://ORGANISATION/NAME@COMMIT"),
        ("store://bases/sdxl", "has no digest"),
        ("store://bases/sdxl@abc", "has 3 of 64 digits"),
        (f"store://bases/sdxl@{'a' * 64}", "WORKER_BASES names no folder"),
        ("https://example.com/sdxl.safetensors", "must be a path, hub://… or store://…"),
        ("no/such/folder", "names no file or folder: "),
    ],
)
def test_source_that_is_not_there_or_names_no_exact_version_is_refused(tmp_path: Path, source: str, said: str) -> None:
    file = changed(tmp_path, (f'"{ROOT}/models/studio/base"', f'"{source}"'))
    (refusal,) = refusals(file)
    assert refusal.startswith(f"{file}:{line_of(file, 'source')}: base.source ")
    assert said in refusal


def test_a_model_of_the_hub_is_taken_from_its_cache_where_the_hub_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As HF_HUB_OFFLINE=1 has it, which is read on import."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--acme--base" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "unet.safetensors").touch()
    source = f"hub://acme/base@{COMMIT}"
    assert Sources().find(source, tmp_path) == snapshot
    assert Sources().find(f"{source}/unet.safetensors", tmp_path) == snapshot / "unet.safetensors"
    file = changed(tmp_path, (f'"{ROOT}/models/studio/base"', f'"hub://acme/other@{COMMIT}"'))
    (refusal,) = refusals(file)
    assert f"can't be fetched from the hub (hub://acme/other@{COMMIT})" in refusal


def test_a_base_of_the_store_is_taken_from_the_folder_that_it_was_pulled_to(tmp_path: Path) -> None:
    store = InMemoryBaseStore()
    reference = push(store, ROOT / "models" / "studio" / "base", name="studio").reference
    file = changed(tmp_path, (f'"{ROOT}/models/studio/base"', f'"{reference}"'))
    sources = Sources(bases=tmp_path / "bases")
    with pytest.raises(RecipeError, match=f"looksmith base pull {reference} {tmp_path / 'bases'}"):
        read_recipe(file, sources)
    copy = pull(store, reference, tmp_path / "bases")
    recipe = read_recipe(file, sources)
    assert recipe.base.path == copy
    assert recipe.weighed().digest == read_recipe(SHIPPED).weighed().digest, "where a base came from changes no picture"


def test_digest_changes_with_whatever_changes_a_picture_and_with_nothing_else(tmp_path: Path) -> None:
    recipe = read_recipe(SHIPPED)
    digests = {"base_digest": "b" * 64, "distill_digest": "d" * 64}
    digest = recipe.facts(**digests).digest
    commented = changed(tmp_path, ("# The distillation leaves", "# Another remark: it leaves"))
    noted = changed(tmp_path, ("steps = [", 'licence = "ask first"\nsteps = ['))
    assert read_recipe(commented).facts(**digests).digest == read_recipe(noted).facts(**digests).digest == digest
    assert recipe.distill
    others = [
        replace(recipe, default_steps=2).facts(**digests),
        replace(recipe, clip_skip=1).facts(**digests),
        replace(recipe, safety=True).facts(**digests),
        replace(recipe, distill=replace(recipe.distill, kind="unet")).facts(**digests),
        replace(recipe, sampler=replace(recipe.sampler, eta=0.5)).facts(**digests),
        replace(recipe, sampler=replace(recipe.sampler, config={})).facts(**digests),
        replace(recipe, sampler=replace(recipe.sampler, timesteps={1: (800,)})).facts(**digests),
        recipe.facts(base_digest="c" * 64, distill_digest="d" * 64),
        recipe.facts(base_digest="b" * 64, distill_digest="e" * 64),
    ]
    assert len({digest, *(other.digest for other in others)}) == 1 + len(others)


def test_base_digest_names_weights_and_where_they_lie_and_ignores_the_rest(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"weights")
    before = base_digest(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "whole-model.safetensors").write_bytes(b"the same once more, as hubs hold it")
    (tmp_path / "safety_checker").mkdir()
    (tmp_path / "safety_checker" / "model.safetensors").write_bytes(b"not painted with")
    assert base_digest(tmp_path) == before
    (tmp_path / "unet" / "a.safetensors").rename(tmp_path / "unet" / "b.safetensors")
    renamed = base_digest(tmp_path)
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"weighty")
    assert len({before, renamed, base_digest(tmp_path)}) == 3


def test_of_a_model_in_several_precisions_the_one_without_a_mark_is_meant(tmp_path: Path) -> None:
    for name in ("unet/x.fp16.safetensors", "unet/x.safetensors", "vae/x.fp16.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.relative_to(tmp_path).as_posix() for file in weight_files(tmp_path)] == [
        "unet/x.safetensors",
        "vae/x.fp16.safetensors",
    ]


def test_missing_weights_are_named_by_file_and_key(tmp_path: Path) -> None:
    recipe = replace(read_recipe(SHIPPED), distill=None, base=Base(tmp_path, "studio"))
    with pytest.raises(RecipeError, match=r"studio\.toml:\d+: base\.source names no folder"):
        recipe.weighed()


def test_weights_that_are_not_the_pinned_ones_are_refused_with_both_digests(tmp_path: Path) -> None:
    wrong = "a" * 64
    shipped = read_recipe(SHIPPED)
    assert shipped.distill
    for key, recipe in (
        ("base", replace(shipped, base=replace(shipped.base, sha256=wrong))),
        ("distill", replace(shipped, distill=replace(shipped.distill, sha256=wrong))),
    ):
        with pytest.raises(RecipeError, match=rf"{key}\.sha256 is {wrong}, but the weights' is [0-9a-f]{{64}}"):
            recipe.weighed()
    base, distill = shipped.digests()
    pinned = replace(
        shipped,
        base=replace(shipped.base, sha256=base),
        distill=replace(shipped.distill, sha256=distill),
    )
    assert pinned.weighed().digest == shipped.weighed().digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("default_steps = 4", f"default_steps = {'9' * 5000}"),
        ("default_steps = 4", f"default_steps = {'[' * 3000}"),
        ("default_steps = 4", f"default_steps = 0x{'f' * 5000}"),
        ("default = 0.0", f"default = {'9' * 400}"),
        ('source = "', 'source = "a\\u0000'),
        ('source = "', f'source = "{"a" * 5000}'),
        ("[sampler.config]", f'[sampler.timesteps]\n"{"9" * 5000}" = [1]\n[sampler.config]'),
    ],
)
def test_what_no_reader_of_toml_or_of_files_takes_is_refused_as_every_other_mistake(
    tmp_path: Path, old: str, new: str
) -> None:
    assert refusals(changed(tmp_path, (old, new)))
