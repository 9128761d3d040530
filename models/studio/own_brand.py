"""Trains a LoRA on somebody's own pictures, as train_brand.py does on drawings, in minutes: ``make brand``.

Prints one JSON object about what it made; publishing that and painting with it is the ``looksmith`` command's.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTokenizer

from looksmith.lora import packaged_table
from models.studio.dialects import Lora, write_diffusers
from models.studio.load import base_pipeline
from models.studio.own_pictures import OwnPicture, read_or_leave
from models.studio.train_base import UNCONDITIONAL, denoising_loss, encoded, new_scheduler, token_ids
from models.studio.train_brand import ALL_BUT_WORDS, lora_modules
from models.studio.train_vae import to_pixels
from models.studio.training import DEVICE, Trainer

#: Small batches and a high rate: what counts within six minutes is the number of steps.
RANK, ALPHA, BATCH, STEPS, PEAK_RATE = 16, 16, 8, 900, 3e-3
#: One, so that the same seed gives the same adapter whatever the number of cores; and where others want these too,
#: two threads wait for each other: measured so, a step took 2.4 s of the processor's time in place of 0.4.
THREADS = 1


@dataclass(frozen=True)
class Plan:
    """How long and in what form. ``trigger`` is a word that the look shall need, or nothing."""

    name: str
    trigger: str = ""
    steps: int = STEPS
    minutes: float = 6.0
    seed: int = 0


class DescribedLatents:
    """Batches of (latents, token ids): a cut of a picture, drawn from ``generator``, and its caption."""

    def __init__(self, kept: Tensor, captions: Sequence[str], tokens: CLIPTokenizer) -> None:
        self._latents, self._captions, self._tokens = kept, captions, tokens

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picks = torch.randint(len(self._captions), (size,), generator=generator)
        cuts = torch.randint(self._latents.shape[1], (size,), generator=generator)
        silent = torch.rand(size, generator=generator) < UNCONDITIONAL
        texts = ["" if none else self._captions[i] for i, none in zip(picks.tolist(), silent.tolist(), strict=True)]
        return self._latents[picks, cuts].to(DEVICE), token_ids(self._tokens, texts).to(DEVICE)


def train(pictures: Sequence[OwnPicture], plan: Plan) -> tuple[Lora, dict[str, float]]:
    """A LoRA of the UNet, and figures: what the base's autoencoder loses, steps, seconds, the loss."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(plan.seed)
    began = time.monotonic()
    pipe = base_pipeline()
    # 1. The pictures as the base knows pictures
    rng = np.random.default_rng(plan.seed)
    cuts = np.stack([picture.cuts(rng) for picture in pictures])
    kept = encoded(cuts.reshape(-1, *cuts.shape[2:]), pipe.vae)
    kept = kept.reshape(*cuts.shape[:2], *kept.shape[1:])  # [pictures, cuts, 8, 16, 16]
    captions = [f"{plan.trigger}, {one.caption}" if plan.trigger else one.caption for one in pictures]
    data = DescribedLatents(kept, captions, pipe.tokenizer)
    # 2. What is trained: little, and nothing of what words mean
    scheduler = new_scheduler()
    model = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    model.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(ALL_BUT_WORDS)))
    trainer = Trainer(
        plan.name,
        model,
        steps=plan.steps,
        peak_rate=PEAK_RATE,
        decay=0.98,
        limit_s=plan.minutes * 60,
        resumes=False,
    )
    losses: list[float] = []

    def loss_of(generator: torch.Generator) -> Tensor:
        clean, ids = data.batch(BATCH, generator)
        loss = denoising_loss(model["unet"], model["text_encoder"], scheduler, clean, ids, generator)
        losses.append(loss.item())
        return loss

    # 3. Training, and what came of it
    average = trainer.run(loss_of)
    tenth = math.ceil(len(losses) / 10)
    return Lora(RANK, ALPHA, lora_modules(average["unet"]), {}), {
        "steps": len(losses),
        "first_loss": float(np.mean(losses[:tenth])),
        "last_loss": float(np.mean(losses[-tenth:])),
        "levels_lost": _levels_lost(cuts[:, 0], kept[:, 0], pipe.vae),
        "seconds": time.monotonic() - began,
    }


@torch.no_grad()
def _levels_lost(squares: NDArray[np.uint8], kept: Tensor, vae: AutoencoderKL) -> float:
    """Mean difference, of 255, between pictures and what the autoencoder makes of them: training gets no closer."""
    shown = vae.decode(kept[:16].to(DEVICE)).sample.clamp(-1, 1)
    return float((shown - to_pixels(torch.from_numpy(squares[:16])).to(DEVICE)).abs().mean()) * 127.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of png, jpg or webp files")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--trigger-word", default="")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    pictures = read_or_leave(given.pictures)
    plan = Plan(given.name, given.trigger_word, given.steps, given.minutes, given.seed)
    lora, figures = train(pictures, plan)
    base = packaged_table("studio").digest
    told = {"modelspec.prediction_type": "v", "ss_sd_model_name": "studio", "looksmith.base_digest": base}
    if plan.trigger:
        told["modelspec.trigger_phrase"] = plan.trigger
    write_diffusers(lora, given.out, told)
    names = [picture.name for picture in pictures]
    made = {"file": str(given.out), "folder": str(given.pictures), "pictures": names, "base_digest": base}
    print(json.dumps(made | figures))


if __name__ == "__main__":
    main()
