"""Random mixes in one batch, beside the same pictures painted alone by the reference engine."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from looksmith.lora import pack
from models.studio.files import STUDIO
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.bank_engine import BankEngine
from services.gpu_worker.engine.protocol import (
    EngineJob,
    ImageReady,
    ImageTask,
    JobFailed,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe import Recipe, Sampler
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.reference import ReferenceEngine
from tests.unit.gpu_worker.engine import tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
TRAILING = {**BETAS, "timestep_spacing": "trailing", "steps_offset": 1}
SAMPLERS = {
    "ddim": Sampler("DDIMScheduler", 0.0, {**TRAILING, "clip_sample": False, "rescale_betas_zero_snr": True}),
    "tcd": Sampler("TCDScheduler", 0.3, {**BETAS, "rescale_betas_zero_snr": True}),
    "lcm": Sampler("LCMScheduler", 0.0, {**BETAS, "rescale_betas_zero_snr": True}),
    "euler": Sampler("EulerDiscreteScheduler", 0.0, TRAILING),
    "euler-a": Sampler("EulerAncestralDiscreteScheduler", 0.0, TRAILING),
}
NOT_EULER = ("ddim", "tcd", "lcm")  # the studio's base has a signal of zero at its first step, by which Euler divides
BRANDS = 5
#: (dialect, rank, alpha, adapts the text encoder), over both rank classes
ADAPTERS = [
    ("peft", 4, 2.0, False),
    ("diffusers", 8, 16.0, False),
    ("kohya", 16, 4.0, True),
    ("diffusers-old", 32, 32.0, False),
    ("kohya", 64, 64.0, True),
    ("peft", 128, 32.0, False),
]
Painted = dict[tuple[str, int], tuple[Tensor, NDArray[np.int64]]]


def recipes(plain: Recipe, dtype: str) -> list[Recipe]:
    plain = replace(plain, dtype=dtype, max_guidance=8.0)
    return [replace(plain, name=name, sampler=sampler) for name, sampler in SAMPLERS.items()]


class Pair:
    """The two engines, the same adapters placed in both."""

    def __init__(self, known: Sequence[Recipe], files: Sequence[Path], folder: Path) -> None:
        def reference() -> ReferenceEngine:
            return ReferenceEngine(known, device="cpu", threads=1, slots=8, clock=steady_clock())

        self.alone = reference()
        self.bank = BankEngine(
            reference(),
            slots={16: 4, 128: 4},
            batch_sizes=(1, 2, 4, 8),
            compiled=folder / "compiled",
            compiled_bytes=1 << 30,
        )
        for engine in (self.alone, self.bank):
            engine.load()
        for index, file in enumerate(files):
            for engine in (self.alone, self.bank):
                engine.place(engine.read(file, digest(index)))

    def painted_alone(self, jobs: Sequence[EngineJob]) -> Painted:
        return {key: made for job in jobs for key, made in run(self.alone, [job], [0]).items()}


@pytest.fixture(scope="module")
def doubles(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Random weights, and adapters of all ranks."""
    folder = tmp_path_factory.mktemp("float64")
    files = []
    for index, (dialect, rank, alpha, text) in enumerate(ADAPTERS):
        place = folder / str(index)
        place.mkdir()
        lora = tiny.random_lora(base, seed=index, rank=rank, alpha=alpha, strength=1.0, text_encoder=text)
        files.append(tiny.write_lora(dialect, lora, place))
    pair = Pair(recipes(tiny.tiny_recipe(base), "float64"), files, folder)
    yield pair
    pair.bank.close()


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The model that ships and its brands: pictures that are no noise, whose differences mean something."""
    folder = tmp_path_factory.mktemp("float32")
    brands = STUDIO / "brands"
    pack(brands / "inkwell" / "house-style").write(folder / "inkwell.safetensors")
    files = [folder / "inkwell.safetensors", *sorted(brands.glob("*/*.safetensors"))]
    pair = Pair(recipes(read_recipe(tiny.STUDIO_RECIPE), "float32"), files, folder)
    yield pair
    pair.bank.close()


def digest(index: int) -> str:
    return str(index) * 64


@contextmanager
def latents_kept(engine: ReferenceEngine | BankEngine) -> Iterator[list[Tensor]]:
    """What the VAE is given, picture by picture."""
    vae = (engine if isinstance(engine, ReferenceEngine) else engine._reference).pipe.vae
    kept: list[Tensor] = []
    decode = vae.decode

    def keep(latents: Tensor, **options: object) -> object:
        kept.extend(latents.clone())
        return decode(latents, **options)

    vae.decode = keep
    try:
        yield kept
    finally:
        vae.decode = decode


def run(engine: ReferenceEngine | BankEngine, jobs: Sequence[EngineJob], joins: Sequence[int]) -> Painted:
    """Job i joins before tick ``joins[i]``."""
    made: Painted = {}
    waiting = sorted(zip(joins, jobs, strict=True), key=lambda entry: entry[0])
    with latents_kept(engine) as kept:
        for tick in range(10_000):
            while waiting and waiting[0][0] <= tick:
                engine.start(waiting.pop(0)[1])
            events = engine.tick()
            for event in events:
                if isinstance(event, JobFailed):
                    raise event.error
                if isinstance(event, ImageReady):
                    pixels = np.frombuffer(event.pixels.rgb, np.uint8).reshape(128, 128, 3).astype(np.int64)
                    made[event.job, event.image] = (kept[len(made)], pixels)
            if not events and not waiting:
                return made
    raise AssertionError("the engine never rests")


def mix(seed: int, *, adapters: int, samplers: Sequence[str] = tuple(SAMPLERS)) -> tuple[list[EngineJob], list[int]]:
    """Six jobs that share nothing but their size."""
    draw = random.Random(seed)
    jobs = []
    for index in range(6):
        chosen = draw.sample(range(adapters), draw.choice([1, 1, 2, 3]))
        jobs.append(
            EngineJob(
                id=f"j{index}",
                brand=f"brand-{draw.randrange(4)}",
                recipe=draw.choice(samplers),
                prompt=draw.choice(["a red mug", "a blue car on a mint background", "a star"]),
                negative_prompt=draw.choice(["", "blur"]),
                adapters=tuple(WeightedAdapter(digest(i), draw.choice([1.0, 0.7, -0.5, 1.3])) for i in chosen),
                images=tuple(ImageTask(i, draw.randrange(10_000)) for i in range(draw.choice([1, 1, 2]))),
                width=128,
                height=128,
                steps=draw.choice([1, 2, 4, 8]),
                guidance=draw.choice([0.0, 0.0, 2.5]),
            )
        )
    return jobs, [draw.randrange(4) for _ in jobs]


def without_adapters(jobs: Sequence[EngineJob]) -> list[EngineJob]:
    return [replace(job, adapters=()) for job in jobs]


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("seed", range(3))
def test_in_float64_a_mixed_batch_paints_what_each_job_paints_alone(doubles: Pair, seed: int) -> None:
    jobs, joins = mix(seed, adapters=len(ADAPTERS))
    alone, plain = doubles.painted_alone(jobs), doubles.painted_alone(without_adapters(jobs))
    for key, (latents, _) in run(doubles.bank, jobs, joins).items():
        recipe = next(job.recipe for job in jobs if job.id == key[0])
        tolerance = 1e-6 if re.match("euler", recipe) else 1e-9
        effect = difference(alone[key][0], plain[key][0])
        assert effect >= 1000 * tolerance, f"{key}: adapters move the result by {effect:.1e} only"
        assert difference(latents, alone[key][0]) <= tolerance, key


def test_in_float32_a_mixed_batch_differs_no_more_than_diffusers_does_from_itself(singles: Pair) -> None:
    allowed = max(3 * batching_difference(singles), 1e-5)
    worst = 0.0
    for seed in range(10, 13):
        jobs, joins = mix(seed, adapters=BRANDS, samplers=NOT_EULER)
        alone, plain = singles.painted_alone(jobs), singles.painted_alone(without_adapters(jobs))
        for key, (latents, pixels) in run(singles.bank, jobs, joins).items():
            assert difference(alone[key][0], plain[key][0]) >= 100 * allowed
            moved = np.abs(alone[key][1] - plain[key][1]).max(axis=-1)
            assert (moved >= 16).mean() >= 0.10, f"{key}: adapters move too little of the picture"
            worst = max(worst, difference(latents, alone[key][0]))
            assert (np.abs(pixels - alone[key][1]).max(axis=-1) <= 1).mean() >= 0.999, key
    assert worst <= allowed


def batching_difference(pair: Pair) -> float:
    """What bare diffusers changes in a picture when three others are painted beside it."""
    pipe = pair.alone.pipe
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    prompts = ["a red mug", "a star", "a blue car", "a boat"]

    def latents(prompt: list[str], generator: list[torch.Generator]) -> Tensor:
        made: Tensor = pipe(
            prompt, num_inference_steps=8, guidance_scale=2.5, generator=generator, output_type="latent"
        )[0]
        return made

    together = latents(prompts, generators)
    apart = [latents([p], [torch.Generator().manual_seed(seed)]) for seed, p in enumerate(prompts)]
    return max(difference(together[i], alone[0]) for i, alone in enumerate(apart))


def test_a_reproducible_picture_keeps_every_bit_under_any_neighbours(singles: Pair) -> None:
    jobs, _ = mix(20, adapters=BRANDS, samplers=NOT_EULER)
    wanted = replace(jobs[0], id="wanted", reproducible=True, images=(ImageTask(0, 5), ImageTask(1, 6)))
    alone = run(singles.bank, [wanted], [0])
    for seed in range(21, 24):
        neighbours, joins = mix(seed, adapters=BRANDS, samplers=NOT_EULER)
        among = run(singles.bank, [*neighbours, wanted], [*joins, seed % 3])
        for image in (0, 1):
            assert among["wanted", image][0].equal(alone["wanted", image][0])
            assert (among["wanted", image][1] == alone["wanted", image][1]).all()
