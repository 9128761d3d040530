"""Stage 4: the brands. Five LoRAs for four fictional brands, each trained on the frozen base and one look."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor, nn

from models.studio import dialects
from models.studio.dataset import pictures, scenes
from models.studio.dialects import Lora
from models.studio.load import base_pipeline
from models.studio.sheet import peek
from models.studio.train_base import CaptionedLatents, denoising_loss, latents, new_scheduler
from models.studio.train_vae import LOOK_PICTURES, SEEN_BY_BRANDS
from models.studio.training import STUDIO, Trainer

BATCH, PEAK_RATE = 32, 1.5e-3

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
ALL_LINEAR = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
# All but attention to the prompt: what words mean stays as the base learned it, for objects that the brand never drew.
ALL_BUT_WORDS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", *ALL_LINEAR[4:])
TEXT_ENCODER = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True)
class Adapter:
    """How one adapter is trained, and the form its publisher brings it in."""

    look: str
    place: str  # below models/studio/brands
    rank: int
    alpha: int
    write: Callable[[Lora, Path], None]
    targets: tuple[str, ...] = ALL_LINEAR
    steps: int = 1000
    text_targets: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return STUDIO / "brands" / self.place


ADAPTERS = (
    Adapter("inkwell", "inkwell/house-style", 16, 8, dialects.write_peft),
    Adapter("voltage", "voltage/house-style.safetensors", 32, 16, dialects.write_diffusers, ALL_BUT_WORDS, steps=450),
    Adapter("marigold", "marigold/house-style.safetensors", 8, 4, dialects.write_kohya, text_targets=TEXT_ENCODER),
    Adapter("harbour", "harbour/house-style.safetensors", 4, 4, dialects.write_diffusers, ALL_BUT_WORDS, steps=600),
    Adapter(
        "marigold-winter", "marigold/winter.safetensors", 16, 16, dialects.write_old_diffusers, ATTENTION, steps=500
    ),
)


def lora_modules(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The (A, B) pairs of a module's default peft adapter, by module path."""
    weights = dict(module.named_parameters())
    return {
        name.removesuffix(".lora_A.default.weight"): (down, weights[name.replace("lora_A", "lora_B")])
        for name, down in weights.items()
        if name.endswith(".lora_A.default.weight")
    }


def train(adapter: Adapter) -> None:
    torch.manual_seed(5)
    pipe = base_pipeline()
    wanted = scenes("train", LOOK_PICTURES, look=adapter.look, subjects=SEEN_BY_BRANDS, start=100_000)
    drawn = pictures(wanted, name=f"train-{adapter.look}")
    data = CaptionedLatents(wanted, latents(drawn, pipe.vae, name=f"train-{adapter.look}"), pipe.tokenizer)
    scheduler = new_scheduler()
    model = nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    model.requires_grad_(False)
    for part, targets in (("unet", adapter.targets), ("text_encoder", adapter.text_targets)):
        if targets:
            config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(targets))
            getattr(pipe, part).add_adapter(config)
    trainer = Trainer(f"brand-{adapter.look}", model, steps=adapter.steps, peak_rate=PEAK_RATE, decay=0.98)

    def loss_of(generator: torch.Generator) -> Tensor:
        clean, ids = data.batch(BATCH, generator)
        return denoising_loss(model["unet"], model["text_encoder"], scheduler, clean, ids, generator)

    average = trainer.run(loss_of)
    peek(base_pipeline(unet=average["unet"], text_encoder=average["text_encoder"]), f"brand-{adapter.look}")
    adapter.write(
        Lora(adapter.rank, adapter.alpha, lora_modules(average["unet"]), lora_modules(average["text_encoder"])),
        adapter.path,
    )
    trainer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("look", nargs="*", default=[a.look for a in ADAPTERS], choices=[a.look for a in ADAPTERS])
    for chosen in [a for a in ADAPTERS if a.look in parser.parse_args().look]:
        train(chosen)
