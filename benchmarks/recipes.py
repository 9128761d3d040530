"""Every shipped recipe beside bare diffusers: same base, distillation, sampler, brand and seed give the same latents.

On bases of real topology and reduced width, in float64, where what differs is a mistake and no rounding.
`python -m benchmarks.recipes` tries each recipe, from a folder and from a single file, with a brand of every dialect.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from benchmarks.reduced_bases import SIDE, World, models, opened, write_brands
from benchmarks.report import report
from benchmarks.single_files import Pipeline
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import painting_engine
from services.gpu_worker.engine import bank_lane, pictures, reference
from services.gpu_worker.engine.protocol import (
    Engine,
    EngineJob,
    ImageReady,
    ImageTask,
    JobFailed,
    Pixels,
    WeightedAdapter,
)
from services.gpu_worker.engine.recipe import Distillation, Recipe
from services.gpu_worker.settings import WorkerSettings

FAMILIES = ("sd15", "sdxl")
PROMPT, NEGATIVE = "a red kite over the sea", "blurred"
WEIGHT, SEED = 0.8, 7
NO_BRAND = "none"
#: Of the largest latent; Euler's steps are in float32 whatever they are given.
TOLERANCE, EULERS_TOLERANCE = 1e-9, 1e-6


def tolerance(recipe: Recipe) -> float:
    return EULERS_TOLERANCE if recipe.sampler.name.startswith("Euler") else TOLERANCE


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


class Bare:
    """A recipe as a user of diffusers would run it: pipeline, fused distillation, scheduler."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        folder = recipe.base.config or recipe.base.path
        self._pipe = opened(folder, recipe.family)
        if recipe.distill:
            _distil(self._pipe, recipe.distill)
        self._pipe.scheduler = getattr(diffusers, recipe.sampler.name)(**recipe.sampler.config)

    def latents(self, brand: Path | None) -> Tensor:
        """What the VAE would be given [channels, height, width], for a brand's file or a peft folder."""
        recipe, pipe, steps = self._recipe, self._pipe, self._recipe.default_steps
        given = recipe.sampler.timesteps.get(steps)
        with _adapted(pipe, brand):
            made: Tensor = pipe(
                PROMPT,
                negative_prompt=NEGATIVE,
                width=SIDE,
                height=SIDE,
                guidance_scale=recipe.default_guidance,
                eta=recipe.sampler.eta,
                clip_skip=recipe.clip_skip or None,
                generator=torch.Generator().manual_seed(SEED),
                output_type="latent",
                **({"timesteps": list(given)} if given else {"num_inference_steps": steps}),
            )[0][0]
        scaling_factor: float = pipe.vae.config.scaling_factor
        return made / scaling_factor


def _distil(pipe: Pipeline, distillation: Distillation) -> None:
    if distillation.kind == "unet":
        pipe.unet.load_state_dict(load_file(distillation.path))
        return
    pipe.load_lora_weights(distillation.path.parent, weight_name=distillation.path.name)
    _double(pipe)
    pipe.fuse_lora(lora_scale=distillation.scale)
    pipe.unload_lora_weights()


@contextmanager
def _adapted(pipe: Pipeline, brand: Path | None) -> Iterator[None]:
    if brand is None:
        yield
    elif brand.is_dir():  # of peft, which diffusers does not read
        unet = pipe.unet
        adapted = PeftModel.from_pretrained(unet, brand)
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                layer.set_scale(adapted.active_adapter, WEIGHT)
        _double(pipe)
        yield
        adapted.unload()
    else:
        pipe.load_lora_weights(brand.parent, weight_name=brand.name, adapter_name="brand")
        pipe.set_adapters(["brand"], [WEIGHT])
        _double(pipe)
        yield
        pipe.unload_lora_weights()


def _double(pipe: Pipeline) -> None:
    """Adapters in float64, which the libraries round to float32."""
    for model in models(pipe).values():
        for layer in model.modules():
            if isinstance(layer, BaseTunerLayer):
                for halves in (layer.lora_A, layer.lora_B):
                    halves.double()


class Served:
    """All recipes of a family in one engine, as a worker has them, with brands in it."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        brands: Mapping[str, Path],
        folder: Path,
        *,
        engine: Literal["bank", "reference"] = "bank",
    ) -> None:
        settings = WorkerSettings(
            name="recipes", registry="none", disk_cache=folder, engine=engine, slots={8: 8}, batch_sizes=(1, 2, 4, 8)
        )
        self.engine: Engine = painting_engine(recipes, settings, steady_clock())
        self.engine.load()
        for name, file in brands.items():
            self.engine.place(self.engine.read(file, name))

    def latents(self, recipe: Recipe, brands: Sequence[str]) -> dict[str, Tensor]:
        """What the VAE is given, by brand; as many in a batch as the engine takes."""
        made: dict[str, Tensor] = {}
        waiting = list(brands)
        with _decoded() as decoded:
            while waiting:
                together, waiting = waiting[: self.engine.max_jobs], waiting[self.engine.max_jobs :]
                for brand in together:
                    self.engine.start(_job(recipe, brand))
                while events := self.engine.tick():
                    for event in events:
                        if isinstance(event, JobFailed):
                            raise event.error
                        if isinstance(event, ImageReady):
                            made[event.job] = decoded[len(made)]
        return made


def _job(recipe: Recipe, brand: str) -> EngineJob:
    return EngineJob(
        id=brand,
        brand=brand,
        recipe=recipe.name,
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        adapters=() if brand == NO_BRAND else (WeightedAdapter(brand, WEIGHT),),
        images=(ImageTask(0, SEED),),
        width=SIDE,
        height=SIDE,
        steps=recipe.default_steps,
        guidance=recipe.default_guidance,
    )


@contextmanager
def _decoded() -> Iterator[list[Tensor]]:
    """The latents of pictures as they are decoded, divided as the VAE takes them."""
    kept: list[Tensor] = []
    decode = pictures.decoded

    def keep(pipe: Pipeline, latents: Tensor) -> list[Pixels]:
        kept.extend(latents / pipe.vae.config.scaling_factor)
        return decode(pipe, latents)

    for lane in (bank_lane, reference):
        lane.decoded = keep  # type: ignore[attr-defined]  # on purpose
    try:
        yield kept
    finally:
        for lane in (bank_lane, reference):
            lane.decoded = decode  # type: ignore[attr-defined]  # as above


def compared(recipe: Recipe, served: Served, brands: Mapping[str, Path]) -> dict[str, tuple[float, float]]:
    """By brand: how far it is from bare diffusers, as a share of what is allowed, and how far the brand moves it.

    ``brands`` are files as diffusers and peft read them.
    """
    bare = Bare(recipe)
    ours = served.latents(recipe, [NO_BRAND, *brands])
    plain = bare.latents(None)
    found = {NO_BRAND: (difference(ours[NO_BRAND], plain) / tolerance(recipe), 0.0)}
    for name, file in brands.items():
        theirs = bare.latents(file)
        found[name] = (difference(ours[name], theirs) / tolerance(recipe), difference(theirs, plain))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("bank", "reference"), default="bank")
    parser.add_argument("--json", type=Path, help="writes the figures there")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    figures: dict[str, float] = {"recipes": 0, "pictures": 0, "difference_vs_allowed": 0, "least_effect": 1}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory(prefix="recipes-") as name:
            world = World(family, Path(name))
            brands = write_brands(world, Path(name))
            published, given = (dict(zip(brands, files, strict=True)) for files in zip(*brands.values(), strict=True))
            for source, recipes in (("folder", world.in_folder), ("file", world.in_file)):
                served = Served(recipes, published, Path(name) / source, engine=options.engine)
                for recipe in tqdm(recipes, desc=f"{family} from a {source}"):
                    found = compared(recipe, served, given)
                    figures["recipes"] += 1
                    figures["pictures"] += len(found)
                    worst = max(found, key=lambda brand: found[brand][0])
                    tqdm.write(f"{recipe.name:24s} {source:6s} {found[worst][0]:8.1e} of what is allowed ({worst})")
                    figures["difference_vs_allowed"] = max(figures["difference_vs_allowed"], found[worst][0])
                    effects = [effect for brand, (_, effect) in found.items() if brand != NO_BRAND]
                    figures["least_effect"] = min([figures["least_effect"], *effects])
                served.engine.close()
    bars = {"difference_vs_allowed": ("<=", 1.0), "least_effect": (">=", 0.01)}
    sys.exit(not report(figures, bars, file=options.json, engine=options.engine))


if __name__ == "__main__":
    main()
