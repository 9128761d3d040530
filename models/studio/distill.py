"""Stage 5: the distillation. One LoRA that jumps from any point of the teacher's path straight to its end.

The teacher paints with guidance in many steps; each of its paths gives pairs (point on the way, picture at the end).
Learning the end from every point is the consistency property (arXiv 2303.01469) with exact targets in place of
bootstrapped ones, and it distils guidance along (arXiv 2210.03142). One LoRA then serves 1 to 8 unguided steps. It is
learned on the base alone, then finished beside three brands' adapters, one at a time, so that it stays sharp under an
adapter; that it does so under adapters that it never met is what the other two show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from tqdm import tqdm

from models.studio.captions import caption, prompt
from models.studio.dataset import CACHE
from models.studio.load import BRANDS, BrandAdapter, base_pipeline, with_brand
from models.studio.scenes import OBJECTS, scene
from models.studio.sheet import peek
from models.studio.train_base import new_scheduler, token_ids
from models.studio.train_vae import SEEN_BY_BRANDS
from models.studio.training import DEVICE, STUDIO, Trainer, replace_folder

TEACHER_STEPS, GUIDANCE = 24, 3.0
PATHS, STEPS, PEAK_RATE = 1440, 800, 1e-3  # on the base alone
BRAND_PATHS, BRAND_STEPS, BRAND_RATE = 288, 400, 5e-4  # beside brands; paths of each
BATCH, RANK = 48, 16
MET = ("inkwell", "voltage", "harbour")
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_in",
    "proj_out",
    "conv1",
    "conv2",
    "conv_in",
    "conv_out",
    "time_emb_proj",
)
FOLDER = STUDIO / "distill"
ALONE = CACHE / "distill.alone"
FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Paths:
    """Guided paths of one teacher."""

    points: Tensor  # float16 [paths, steps + 1, 8, 16, 16]; the last is the end
    text: Tensor  # float16 [paths, tokens, width]


def path_prompt(index: int, subjects: tuple[str, ...] = OBJECTS) -> str:
    """Half as people write, half in the plainest wording; never a held-out triple."""
    one = scene("train", 500_000 + index, subjects=subjects)
    return prompt(*one.triple) if index % 2 else caption(one, np.random.default_rng((9, index)))


@torch.no_grad()
def teacher_paths(pipe: StableDiffusionPipeline, prompts: Sequence[str], *, name: str) -> Paths:
    """Guided DDIM paths of the pipeline, adapters and all, cached under ``name``."""
    file = CACHE / f"distill.paths-{name}.pt"
    if file.exists():
        return Paths(**torch.load(file, weights_only=True))
    ids = token_ids(pipe.tokenizer, list(prompts))
    empty = pipe.text_encoder(token_ids(pipe.tokenizer, [""]).to(DEVICE)).last_hidden_state
    points, texts = [], []
    for start in tqdm(range(0, len(prompts), 48), desc=f"teacher {name}"):
        some = ids[start : start + 48].to(DEVICE)
        asked_for = pipe.text_encoder(some).last_hidden_state
        text = torch.cat([empty.expand(len(some), -1, -1), asked_for])
        x = torch.randn((len(some), 8, 16, 16), generator=torch.Generator().manual_seed(start)).to(DEVICE)
        scheduler = new_scheduler()
        scheduler.set_timesteps(TEACHER_STEPS)
        path = [x]
        for t in scheduler.timesteps:
            without, asked = pipe.unet(torch.cat([x, x]), t, text, return_dict=False)[0].chunk(2)
            x = scheduler.step(without + GUIDANCE * (asked - without), t, x, return_dict=False)[0]
            path.append(x)
        points.append(torch.stack(path, dim=1).half().cpu())
        texts.append(asked_for.half().cpu())
    paths = Paths(torch.cat(points), torch.cat(texts))
    torch.save({"points": paths.points, "text": paths.text}, file)
    return paths


class Jump:
    """The loss: how far from the end of its path a batch of points lands in one step."""

    def __init__(self) -> None:
        scheduler = new_scheduler()
        scheduler.set_timesteps(TEACHER_STEPS)
        self._timesteps = scheduler.timesteps
        self._alphas = scheduler.alphas_cumprod.sqrt()

    def __call__(self, unet: nn.Module, paths: Paths, generator: torch.Generator) -> Tensor:
        path = torch.randint(len(paths.points), (BATCH,), generator=generator)
        at = torch.randint(TEACHER_STEPS, (BATCH,), generator=generator)
        t = self._timesteps[at]
        x, end = paths.points[path, at].float(), paths.points[path, -1].float()
        a = self._alphas[t][:, None, None, None]
        s = (1 - a**2).sqrt()
        v = unet(x.to(DEVICE), t.to(DEVICE), paths.text[path].float().to(DEVICE), return_dict=False)[0]
        # From v to the picture it implies: x0 = a x - s v (arXiv 2202.00512, appendix D).
        made = a.to(DEVICE) * x.to(DEVICE) - s.to(DEVICE) * v
        # Pseudo-Huber: outliers at high noise must not drown the fine differences at low noise.
        return (F.mse_loss(made, end.to(DEVICE), reduction="none").mean((1, 2, 3)) + 1e-3).sqrt().mean()


def train_alone() -> None:
    torch.manual_seed(4)
    pipe = base_pipeline()
    paths = teacher_paths(pipe, [path_prompt(i) for i in range(PATHS)], name="none")
    pipe.unet.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), init_lora_weights="gaussian")
    pipe.unet.add_adapter(config, adapter_name="distill")
    trainer = Trainer("distill-alone", pipe.unet, steps=STEPS, peak_rate=PEAK_RATE, decay=0.99)
    jump = Jump()
    average: Any = trainer.run(lambda generator: jump(pipe.unet, paths, generator), look=look)
    write(average, ALONE)
    trainer.close()


def train_beside_brands() -> None:
    torch.manual_seed(6)
    brands = [brand for brand in BRANDS if brand.look in MET]
    # 1. Each brand's teacher is the undistilled base with its adapter, and so knows only what that was trained on
    paths = {"": teacher_paths(base_pipeline(), [path_prompt(i) for i in range(PATHS)], name="none")}
    for brand in brands:
        prompts = [path_prompt(i, SEEN_BY_BRANDS) for i in range(BRAND_PATHS)]
        paths[brand.look] = teacher_paths(with_brand(base_pipeline(), brand), prompts, name=brand.look)
    # 2. One UNet with the distillation, which learns, and all the brands, which don't
    pipe = base_pipeline()
    for brand in brands:
        add_brand(pipe, brand)
    pipe.load_lora_weights(ALONE, weight_name=FILE, adapter_name="distill")
    learning = [weight for name, weight in pipe.unet.named_parameters() if ".distill." in name]

    def only_distill_learns() -> None:
        pipe.unet.requires_grad_(False)
        for weight in learning:
            weight.requires_grad_(True)

    only_distill_learns()
    trainer = Trainer("distill", pipe.unet, steps=BRAND_STEPS, peak_rate=BRAND_RATE, decay=0.98)
    jump = Jump()

    def loss_of(generator: torch.Generator) -> Tensor:
        # 3. Every other batch is the base's own, lest it be forgotten
        turn = int(torch.randint(2 * len(brands), (1,), generator=generator))
        beside = brands[turn].look if turn < len(brands) else ""
        pipe.unet.set_adapters([beside, "distill"] if beside else ["distill"])
        only_distill_learns()
        return jump(pipe.unet, paths[beside], generator)

    average: Any = trainer.run(loss_of)
    write(average, FOLDER)
    trainer.close()


def add_brand(pipe: StableDiffusionPipeline, brand: BrandAdapter) -> None:
    """Adds a brand to the pipeline's own UNet, under the name of its look."""
    if brand.path.is_dir():
        inject_adapter_in_model(LoraConfig.from_pretrained(str(brand.path)), pipe.unet, adapter_name=brand.look)
        weights = load_peft_weights(str(brand.path), device="cpu")
        set_peft_model_state_dict(pipe.unet, weights, adapter_name=brand.look)
        pipe.unet._hf_peft_config_loaded = True  # noqa: SLF001  # as diffusers does when it adds one itself
    else:
        pipe.load_lora_weights(brand.path.parent, weight_name=brand.path.name, adapter_name=brand.look)


def look(unet: nn.Module) -> None:
    peek(base_pipeline(unet=unet), "distill", steps=(4, 2, 1))


def write(unet: Any, folder: Path) -> None:  # noqa: ANN401  # diffusers' models are typed in name only
    layers = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(unet, adapter_name="distill").items()}
    metadata = unet.peft_config["distill"].to_dict()
    replace_folder(
        folder,
        lambda beside: StableDiffusionPipeline.save_lora_weights(
            beside, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata
        ),
    )


def train() -> None:
    if not ALONE.exists():
        train_alone()
    train_beside_brands()


if __name__ == "__main__":
    train()
