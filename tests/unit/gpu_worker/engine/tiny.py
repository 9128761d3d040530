"""A studio-shaped pipeline of random weights and LoRA files of every dialect for it, small enough for unit tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from looksmith.lora import Module, ModuleTable, pack, table_from_folder
from models.studio import dialects, tokenizer, train_vae
from models.studio.dialects import Lora
from models.studio.train_base import new_scheduler, new_text_encoder, new_unet
from services.gpu_worker.engine.recipe import Base, Recipe
from services.gpu_worker.engine.recipe_file import read_recipe

STUDIO_RECIPE = Path(__file__).parents[4] / "deploy" / "recipes" / "studio.toml"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def write_base(folder: Path) -> Path:
    """A diffusers folder whose random pictures differ from each other and between seeds."""
    torch.manual_seed(0)
    tokens = tokenizer.build()
    vae = train_vae.new()
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=new_text_encoder(tokens),
        tokenizer=tokens,
        unet=new_unet(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(6)  # an untrained decoder paints grey
    pipe.save_pretrained(folder)
    return folder


def tiny_recipe(base: Path, **changes: object) -> Recipe:
    return replace(read_recipe(STUDIO_RECIPE), base=Base(base, "studio"), distill=None, **changes)  # type: ignore[arg-type]  # any field


def write_recipe(file: Path, base: Path) -> Path:
    """The recipe that ships, for another base and without distillation."""
    text = STUDIO_RECIPE.read_text().replace("../../models/studio/base", str(base))
    start, end = text.index("[distill]"), text.index("# The distillation leaves")
    file.write_text(text[:start] + text[end:])
    return file


def table_of(base: Path) -> ModuleTable:
    return table_from_folder(base, family="studio", digest="0" * 64)


def random_lora(
    base: Path, *, seed: int, rank: int = 4, alpha: float = 4.0, strength: float = 4.0, text_encoder: bool = False
) -> Lora:
    """A LoRA of all attention layers, strong enough to change a picture that anyone would notice."""
    table = table_of(base)
    generator = torch.Generator().manual_seed(seed)

    def pairs(layers: Iterable[tuple[str, Module]]) -> dict[str, tuple[Tensor, Tensor]]:
        made = {}
        for path, layer in layers:
            down = torch.randn(layer.down_shape(rank), generator=generator) / layer.in_features**0.5
            up = torch.randn(layer.up_shape(rank), generator=generator) * strength / rank**0.5
            # As transformers 5 names layers in memory, and trainers then write them
            made[path.removeprefix("text_model.")] = (down, up * rank / alpha)
        return made

    unet = [(p, m) for p, m in table.components["unet"].items() if p.endswith(ATTENTION)]
    encoder = [(p, m) for p, m in table.components["text_encoder"].items() if "self_attn" in p or "mlp" in p]
    return Lora(rank, alpha, pairs(unet), pairs(encoder) if text_encoder else {})


def write_lora(dialect: str, lora: Lora, place: Path) -> Path:
    """The file as a registry would hand it out; a peft folder is packed."""
    file = place / f"{dialect}.safetensors"
    match dialect:
        case "peft":
            dialects.write_peft(lora, place / "peft")
            pack(place / "peft").write(file)
        case "diffusers":
            dialects.write_diffusers(lora, file)
        case "diffusers-old":
            dialects.write_old_diffusers(lora, file)
        case "kohya":
            dialects.write_kohya(lora, file)
        case _:
            raise ValueError(dialect)
    return file


def names_in(file: Path) -> list[str]:
    head = file.read_bytes()
    names: dict[str, object] = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
    return [name for name in names if name != "__metadata__"]
