"""The reference engine beside bare diffusers and peft: same adapter, seed, steps and sampler, same picture."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from peft import PeftModel

from looksmith.lora import Inspection, LoraError, inspect
from models.studio.dialects import Lora
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.adapters import LoraTensors
from services.gpu_worker.engine.protocol import EngineJob, ImageReady, ImageTask, JobFailed, WeightedAdapter
from services.gpu_worker.engine.recipe import Distillation, Recipe, RecipeError, Sampler
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny

PROMPT = "a red apple on a wooden table"
Drawn = NDArray[np.int64]


def painted(
    engine: ReferenceEngine, *adapters: WeightedAdapter, seed: int = 3, steps: int = 4, guidance: float = 0.0
) -> Drawn:
    recipe = engine.recipes[0].name
    engine.start(
        EngineJob("j1", "acme", recipe, PROMPT, "blur", adapters, (ImageTask(0, seed),), 128, 128, steps, guidance)
    )
    while events := engine.tick():
        for event in events:
            if isinstance(event, JobFailed):
                raise event.error
            if isinstance(event, ImageReady):
                pixels = np.frombuffer(event.pixels.rgb, np.uint8)
    return pixels.reshape(128, 128, 3).astype(np.int64)


def by_diffusers(
    base: Path,
    prepare: Callable[[StableDiffusionPipeline], object] = lambda _: None,
    *,
    scheduler: object = None,
    seed: int = 3,
    steps: int = 4,
    guidance: float = 0.0,
    eta: float = 0.0,
) -> Drawn:
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = scheduler
    prepare(pipe)
    image = pipe(
        PROMPT,
        negative_prompt="blur",
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        eta=eta,
    ).images[0]
    return np.asarray(image).astype(np.int64)


def same(one: Drawn, other: Drawn) -> bool:
    """Within one level at 99.9 % of pixels, as the design promises."""
    return bool((np.abs(one - other).max(axis=-1) <= 1).mean() >= 0.999)


def moved(one: Drawn, other: Drawn) -> float:
    """Share of pixels that differ by 16 levels or more."""
    return float((np.abs(one - other).max(axis=-1) >= 16).mean())


def engine_for(*recipes: Recipe) -> ReferenceEngine:
    engine = ReferenceEngine(recipes, device="cpu", threads=1, slots=8, clock=steady_clock())
    engine.load()
    return engine


def place(engine: ReferenceEngine, file: Path, digest: str = "one") -> WeightedAdapter:
    engine.place(engine.read(file, digest))
    return WeightedAdapter(digest, 1.0)


def inspected(base: Path, file: Path) -> Inspection:
    return inspect(file, tiny.table_of(base))


def as_diffusers_loads(file: Path) -> Callable[[StableDiffusionPipeline], object]:
    return lambda pipe: pipe.load_lora_weights(file.parent, weight_name=file.name)


def test_base_alone_is_what_the_pipeline_paints(reference: ReferenceEngine, base: Path) -> None:
    for seed, steps in ((3, 4), (2**64 - 1, 1)):
        assert same(painted(reference, seed=seed, steps=steps), by_diffusers(base, seed=seed, steps=steps))


@pytest.mark.parametrize(
    ("dialect", "alpha", "text_encoder"),
    [("peft", 8.0, False), ("diffusers", 2.0, True), ("diffusers-old", 4.0, False), ("kohya", 2.0, True)],
)
def test_adapter_of_every_dialect_is_applied_whole_and_as_its_own_library_does(
    reference: ReferenceEngine, base: Path, tmp_path: Path, dialect: str, alpha: float, *, text_encoder: bool
) -> None:
    lora = tiny.random_lora(base, seed=5, alpha=alpha, text_encoder=text_encoder)
    file = tiny.write_lora(dialect, lora, tmp_path)
    assert inspected(base, file).dialect.value == dialect

    def as_published(pipe: StableDiffusionPipeline) -> None:
        if dialect == "peft":  # diffusers can't read a peft folder; peft can
            pipe.unet = PeftModel.from_pretrained(pipe.unet, tmp_path / "peft")
        else:
            as_diffusers_loads(file)(pipe)

    adapter = reference.read(file, "one")
    assert isinstance(adapter.payload, LoraTensors)
    alphas = sum(name.endswith(".alpha") for name in tiny.names_in(file))
    assert len(adapter.payload.tensors) + alphas == len(tiny.names_in(file)), "every key is read"
    reference.place(adapter)
    mine = painted(reference, WeightedAdapter("one", 1.0))
    assert same(mine, by_diffusers(base, as_published))
    assert moved(mine, painted(reference)) >= 0.1, "the adapter is strong enough for the comparison to tell"


def test_diffusers_own_keys_with_the_text_model_prefix_load_too(
    reference: ReferenceEngine, base: Path, tmp_path: Path
) -> None:
    """Files from before transformers 5 spell text encoders so; diffusers 0.42 fails on them if they carry a config."""
    lora = tiny.random_lora(base, seed=5, text_encoder=True)
    prefixed = replace(lora, text_encoder={f"text_model.{path}": ab for path, ab in lora.text_encoder.items()})
    for name, written in (("new", lora), ("old", prefixed)):
        (tmp_path / name).mkdir()
        tiny.write_lora("diffusers", written, tmp_path / name)
    new = place(reference, tmp_path / "new" / "diffusers.safetensors", "new")
    old = place(reference, tmp_path / "old" / "diffusers.safetensors", "old")
    assert np.array_equal(painted(reference, new), painted(reference, old))


def test_ranks_and_alphas_of_single_modules_are_kept(reference: ReferenceEngine, base: Path, tmp_path: Path) -> None:
    low, high = (tiny.random_lora(base, seed=5, rank=rank, alpha=float(rank)) for rank in (2, 8))
    paths = list(low.unet)
    mixed = {path: (low if i % 3 else high).unet[path] for i, path in enumerate(paths)}
    file = tiny.write_lora("kohya", Lora(8, 4.0, mixed, {}), tmp_path)  # kohya keeps alpha 4 at both ranks

    def by_hand(pipe: StableDiffusionPipeline) -> None:
        with torch.no_grad():
            for path, (down, up) in mixed.items():
                layer = pipe.unet.get_submodule(path)
                layer.weight += 4.0 / len(down) * up.half().float() @ down.half().float()

    mine = painted(reference, place(reference, file))
    assert same(mine, by_diffusers(base, by_hand))
    assert moved(mine, painted(reference)) >= 0.1


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # of bare diffusers
def test_mix_of_weighted_adapters_is_what_set_adapters_gives(
    reference: ReferenceEngine, base: Path, tmp_path: Path
) -> None:
    files = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        lora = tiny.random_lora(base, seed=seed, alpha=2.0, text_encoder=seed == 2)
        files.append(tiny.write_lora("kohya", lora, tmp_path / str(seed)))

    def mixed(pipe: StableDiffusionPipeline) -> None:
        for name, file in zip("ab", files, strict=True):
            pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
        pipe.set_adapters(["a", "b"], [0.7, -0.5])

    for name, file in zip("ab", files, strict=True):
        place(reference, file, name)
    mine = painted(reference, WeightedAdapter("a", 0.7), WeightedAdapter("b", -0.5))
    assert same(mine, by_diffusers(base, mixed))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
def test_guidance_and_a_sampler_that_draws_noise_match_the_pipeline(base: Path) -> None:
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    recipe = tiny.tiny_recipe(base, sampler=Sampler("EulerAncestralDiscreteScheduler", 0.0, config), max_guidance=8.0)
    mine = painted(engine_for(recipe), guidance=5.0)
    assert same(mine, by_diffusers(base, scheduler=EulerAncestralDiscreteScheduler(**config), guidance=5.0))


def test_eta_of_the_recipe_reaches_the_sampler(base: Path) -> None:
    recipe = tiny.tiny_recipe(base)
    noisy = replace(recipe, sampler=replace(recipe.sampler, eta=1.0))
    mine = painted(engine_for(noisy))
    scheduler = DDIMScheduler(**recipe.sampler.config)
    assert same(mine, by_diffusers(base, scheduler=copy.deepcopy(scheduler), eta=1.0))
    assert not same(mine, by_diffusers(base, scheduler=scheduler))


def test_distillation_is_fused_once_and_adapters_run_on_top_of_it(base: Path, tmp_path: Path) -> None:
    (tmp_path / "distill").mkdir()
    # Weaker than elsewhere: two strong ones on random weights make pixels of what two libraries round differently.
    source = tiny.write_lora("diffusers", tiny.random_lora(base, seed=9, strength=1.0), tmp_path / "distill")
    brand = tiny.write_lora("kohya", tiny.random_lora(base, seed=5, strength=1.0), tmp_path)
    engine = engine_for(replace(tiny.tiny_recipe(base), distill=Distillation(source, scale=0.8)))

    def distilled(pipe: StableDiffusionPipeline) -> None:
        pipe.load_lora_weights(source.parent, weight_name=source.name, adapter_name="distill")
        pipe.fuse_lora(components=["unet"], lora_scale=0.8)
        pipe.unload_lora_weights()

    def both(pipe: StableDiffusionPipeline) -> None:
        distilled(pipe)
        as_diffusers_loads(brand)(pipe)

    alone = painted(engine)
    assert same(alone, by_diffusers(base, distilled))
    assert same(painted(engine, place(engine, brand)), by_diffusers(base, both))
    assert moved(alone, by_diffusers(base)) >= 0.1
    assert engine.recipes[0].digest != tiny.tiny_recipe(base).weighed().digest


def test_file_for_another_base_is_refused_and_harms_no_adapter(
    reference: ReferenceEngine, base: Path, tmp_path: Path
) -> None:
    one = place(reference, tiny.write_lora("kohya", tiny.random_lora(base, seed=1), tmp_path))
    before = painted(reference, one)
    lora = tiny.random_lora(base, seed=2)
    wrong = replace(lora, unet={f"other_block.{path}": ab for path, ab in lora.unet.items()})
    (tmp_path / "wrong").mkdir()
    with pytest.raises(LoraError):
        reference.read(tiny.write_lora("diffusers", wrong, tmp_path / "wrong"), "two")
    assert np.array_equal(painted(reference, one), before)


def test_base_weights_are_the_same_after_many_swaps(reference: ReferenceEngine, base: Path, tmp_path: Path) -> None:
    before = painted(reference)
    file = tiny.write_lora("kohya", tiny.random_lora(base, seed=1, text_encoder=True), tmp_path)
    for i in range(5):
        adapter = place(reference, file, f"a{i}")
        painted(reference, adapter, steps=1)
        reference.evict(f"a{i}")
    assert np.array_equal(painted(reference), before)


def test_recipes_of_two_bases_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    other = replace(tiny.tiny_recipe(base), file=tmp_path / "other.toml", dtype="float16")
    with pytest.raises(RecipeError, match=r"other\.toml:\d+: base differs"):
        ReferenceEngine([tiny.tiny_recipe(base), other], device="cpu", threads=1, slots=8, clock=steady_clock())


@pytest.mark.parametrize(
    ("sampler", "key"),
    [
        (Sampler("NoSuchScheduler", 0.0, {}), "sampler.class"),
        (Sampler("StableDiffusionPipeline", 0.0, {}), "sampler.class"),
        (Sampler("DDIMScheduler", 0.0, {"betas_start": 1}), "sampler.config"),
    ],
)
def test_sampler_that_diffusers_does_not_have_is_refused_at_load(base: Path, sampler: Sampler, key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        engine_for(tiny.tiny_recipe(base, sampler=sampler))


def test_folder_that_is_no_pipeline_is_refused_at_load(base: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "x.safetensors").write_bytes((next((base / "vae").glob("*.safetensors"))).read_bytes())
    with pytest.raises(RecipeError, match=r"base\.source .*model_index\.json can't be read"):
        engine_for(tiny.tiny_recipe(tmp_path))


def test_a_base_without_its_unet_s_weights_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    engine = ReferenceEngine(
        [tiny.tiny_recipe(tmp_path / "base")], device="cpu", threads=1, slots=8, clock=steady_clock()
    )
    with pytest.raises(RecipeError, match=r"base\.source .*/base/unet holds no diffusion_pytorch_model"):
        engine.load()
