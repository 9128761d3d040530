"""Reduced bases whose headers are soon read, and a safety checker of random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import transformers
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

from benchmarks.reduced_bases import World


def write_world(family: str, folder: Path) -> World:
    """Without tokenizers, which take longer to read than all headers; the family's own stand in."""
    world = World(family, folder)
    for tokenizer in folder.glob("bases/*/tokenizer*"):
        shutil.rmtree(tokenizer)
    return world


def write_checker(folder: Path) -> Path:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=8)
    StableDiffusionSafetyChecker(config).save_pretrained(folder)
    return folder
