"""Reduced bases of the public families where the shipped recipes look for weights, and brands' files for them.

LoRA files are written by the libraries that publishers use, where these can write them.
"""

from __future__ import annotations

import copy
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.single_files import Pipeline, reduced_pipeline, write_single_file
from looksmith.lora import ModuleTable, pack
from looksmith.lora.sai import sai_names
from looksmith.lora.tables import COMPONENTS
from services.gpu_worker.engine.model_table import table_of
from services.gpu_worker.engine.recipe import Recipe
from services.gpu_worker.engine.recipe_file import read_recipe

RECIPES = Path(__file__).parents[1] / "deploy" / "recipes"
SIDE = 64
RANK, ALPHA = 4, 2
#: Of what an adapter adds: enough to change a picture, too little for a random model to make noise of rounding.
STRENGTH = 0.3


#: By dialect, and with convolutions, which the bank has no place for: what is adapted.
BRANDS: Mapping[str, Mapping[str, Any]] = {
    "peft": {"only": ("unet",), "convolutions": False},
    "diffusers": {"convolutions": False},
    "kohya": {"convolutions": False},
    "peft-conv": {"only": ("unet",)},
    "diffusers-conv": {},
    "kohya-conv": {},
}


class World:
    """A family's recipes with all that they name: bases as diffusers folders, ``in_folder``, and as single files."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder
        bases = folder / "bases"
        for number, name in enumerate([family, *(["sdxl-turbo"] if family == "sdxl" else [])]):
            pipe = reduced_pipeline(family, seed=number, dtype=torch.float32)
            pipe.save_pretrained(bases / name)
            write_single_file(pipe, bases / f"{name}.safetensors")
        self.table = table_of(models(pipe), family=family, digest="")
        shutil.copytree(RECIPES / family, folder / "deploy" / "recipes" / family)
        (bases / "distill").mkdir()
        files = sorted(folder.glob("deploy/recipes/*/*.toml"))
        named = {
            Path(tomllib.loads(file.read_text())["distill"]["source"]).name
            for file in files
            if "[distill]" in file.read_text()
        }
        for number, name in enumerate(sorted(named)):
            self._write_distillation(bases / "distill" / name, pipe, seed=100 + number)
        self.in_folder = [_small(read_recipe(file)) for file in files]
        self.in_file = [
            replace(
                recipe,
                base=replace(recipe.base, path=recipe.base.path.with_suffix(".safetensors"), config=recipe.base.path),
            )
            for recipe in self.in_folder
        ]

    def _write_distillation(self, file: Path, pipe: Pipeline, *, seed: int) -> None:
        if "unet" in file.name.lower():
            generator = torch.Generator().manual_seed(seed)
            weights = {
                name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in pipe.unet.state_dict().items()
            }
            save_file(weights, file, metadata={"format": "pt"})
        else:
            # Of every layer of the UNet. SDXL's by its makers' names: of add_embedding by its own, diffusers drops it.
            lora = random_lora(self.table, seed=seed, only=("unet",))
            write_kohya(lora, file, self.table, original_names=self.family == "sdxl")


def _small(recipe: Recipe) -> Recipe:
    return replace(recipe, sizes=((SIDE, SIDE),), dtype="float64")


def models(pipe: Pipeline) -> dict[str, nn.Module]:
    return {name: getattr(pipe, name) for name in COMPONENTS if getattr(pipe, name, None) is not None}


Lora = Mapping[str, tuple[Tensor, Tensor]]  # component.path -> A, B


def random_lora(
    table: ModuleTable, *, seed: int, only: tuple[str, ...] = COMPONENTS, convolutions: bool = True, rank: int = RANK
) -> Lora:
    """A LoRA of every layer that ``only`` and ``convolutions`` leave."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for component in only:
        for path, layer in sorted(table.components.get(component, {}).items()):
            if layer.kernel != (1, 1) and not convolutions:
                continue
            if component == "unet" and not convolutions and ".attentions." not in path:
                continue
            down = torch.randn(layer.down_shape(rank), generator=generator) / down_size(layer.down_shape(rank))
            up = torch.randn(layer.up_shape(rank), generator=generator) * STRENGTH * rank**-0.5 * rank / ALPHA
            lora[f"{component}.{path}"] = (down, up)
    return lora


def down_size(shape: tuple[int, ...]) -> float:
    return float(torch.tensor(shape[1:]).prod() ** 0.5)


def write_kohya(lora: Lora, file: Path, table: ModuleTable, *, original_names: bool = False) -> None:
    """As sd-scripts' networks/lora.py writes: SDXL's UNet, where ``original_names``, by the names of its makers."""
    originals = sai_names(table.components["unet"])
    several = "text_encoder_2" in table.components
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1" if several else "lora_te", "text_encoder_2": "lora_te2"}
    tensors = {}
    for name, (down, up) in lora.items():
        component, _, path = name.partition(".")
        if component == "unet" and original_names:
            path = originals[path]
        stem = f"{prefixes[component]}_{path.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = down.contiguous(), up.contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, file, metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(RANK)})


def write_diffusers(lora: Lora, file: Path, pipe: Pipeline) -> None:
    """As diffusers' own training scripts save: names as peft has them in memory, the config in the header."""
    layers: dict[str, dict[str, Tensor]] = {}
    config: dict[str, object] = {}
    for name, (down, up) in lora.items():
        component, _, path = name.partition(".")
        if component != "unet" and not hasattr(getattr(pipe, component), "text_model"):
            path = path.removeprefix("text_model.")
        layers.setdefault(component, {})[f"{path}.lora_A.weight"] = down
        layers[component][f"{path}.lora_B.weight"] = up
    for component, weights in layers.items():
        targets = sorted({name.rpartition(".lora_")[0] for name in weights})
        adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
        config[f"{component}_lora_adapter_metadata"] = adapter.to_dict()  # type: ignore[no-untyped-call]  # of peft
    options = {f"{component}_lora_layers": weights for component, weights in layers.items()}
    type(pipe).save_lora_weights(file.parent, weight_name=file.name, **options, **config)


def write_peft(lora: Lora, folder: Path, pipe: Pipeline) -> None:
    """As peft saves a UNet with an adapter."""
    paths = [name.removeprefix("unet.") for name in lora]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths)
    unet: Any = get_peft_model(type(pipe.unet).from_config(pipe.unet.config), config)
    for path in paths:
        layer = unet.base_model.model.get_submodule(path)
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = lora[f"unet.{path}"]
    unet.save_pretrained(folder)


def write_brands(world: World, folder: Path) -> dict[str, tuple[Path, Path]]:
    """In each dialect that publishers bring: the file as the registry hands it out, and as its library reads it."""
    pipe = opened(world.in_folder[0].base.path, world.family)
    brands = {}
    for seed, (name, options) in enumerate(BRANDS.items()):
        file, given = folder / f"{name}.safetensors", folder / f"{name}.safetensors"
        lora = random_lora(world.table, seed=seed, **options)
        if name.startswith("peft"):
            given = folder / name
            write_peft(lora, given, pipe)
            pack(given).write(file)
        elif name.startswith("kohya"):
            write_kohya(lora, file, world.table, original_names=world.family == "sdxl")
        else:
            write_diffusers(lora, file, pipe)
        brands[name] = (file, given)
    return brands


def opened(base: Path, family: str) -> Pipeline:
    """By diffusers, as a user would; nobody else's to change."""
    pipe = copy.copy(_read(base, family))
    for name, model in models(pipe).items():
        setattr(pipe, name, copy.deepcopy(model))
    return pipe


@cache
def _read(base: Path, family: str) -> Pipeline:
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipe: Pipeline = kind.from_pretrained(base, dtype=torch.float64, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe
