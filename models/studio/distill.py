"""Stage 3: the distillation. One LoRA that jumps from any point of the teacher's path straight to its end.

The teacher paints with guidance in many steps; each of its paths gives pairs (point on the way, picture at the end).
Learning the end from every point is the consistency property (arXiv 2303.01469) with exact targets in place of
bootstrapped ones, and it distils guidance along (arXiv 2210.03142). One LoRA then serves 1 to 8 unguided steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from tqdm import tqdm

from models.studio.captions import caption, prompt
from models.studio.dataset import CACHE
from models.studio.load import base_pipeline
from models.studio.scenes import scene
from models.studio.sheet import peek
from models.studio.train_base import new_scheduler, token_ids
from models.studio.training import DEVICE, STUDIO, Trainer, replace_folder

PATHS, TEACHER_STEPS, GUIDANCE = 1440, 24, 3.0
STEPS, BATCH, PEAK_RATE, RANK = 800, 48, 1e-3, 16
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


def path_prompt(index: int) -> str:
    """Half as people write, half in the plainest wording; never a held-out triple."""
    one = scene("train", 500_000 + index)
    return prompt(*one.triple) if index % 2 else caption(one, np.random.default_rng((9, index)))


@torch.no_grad()
def teacher_paths(pipe: StableDiffusionPipeline) -> tuple[Tensor, Tensor]:
    """Guided DDIM paths: points, float16 [paths, steps + 1, 8, 16, 16] (the last is the end), and token ids."""
    file = CACHE / "distill.paths.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        return kept["points"], kept["ids"]
    ids = token_ids(pipe.tokenizer, [path_prompt(i) for i in range(PATHS)])
    empty = pipe.text_encoder(token_ids(pipe.tokenizer, [""]).to(DEVICE)).last_hidden_state
    points = []
    for start in tqdm(range(0, PATHS, 48), desc="teacher"):
        some = ids[start : start + 48].to(DEVICE)
        text = torch.cat([empty.expand(len(some), -1, -1), pipe.text_encoder(some).last_hidden_state])
        x = torch.randn((len(some), 8, 16, 16), generator=torch.Generator().manual_seed(start)).to(DEVICE)
        scheduler = new_scheduler()
        scheduler.set_timesteps(TEACHER_STEPS)
        path = [x]
        for t in scheduler.timesteps:
            without, asked = pipe.unet(torch.cat([x, x]), t, text, return_dict=False)[0].chunk(2)
            x = scheduler.step(without + GUIDANCE * (asked - without), t, x, return_dict=False)[0]
            path.append(x)
        points.append(torch.stack(path, dim=1).half().cpu())
    result = torch.cat(points)
    torch.save({"points": result, "ids": ids}, file)
    return result, ids


def train() -> None:
    torch.manual_seed(4)
    pipe = base_pipeline()
    points, ids = teacher_paths(pipe)
    scheduler = new_scheduler()
    scheduler.set_timesteps(TEACHER_STEPS)
    timesteps = scheduler.timesteps
    alphas = scheduler.alphas_cumprod.sqrt()
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), init_lora_weights="gaussian")
    )
    trainer = Trainer("distill", pipe.unet, steps=STEPS, peak_rate=PEAK_RATE, decay=0.99)

    def loss_of(generator: torch.Generator) -> Tensor:
        path = torch.randint(len(points), (BATCH,), generator=generator)
        at = torch.randint(TEACHER_STEPS, (BATCH,), generator=generator)
        t = timesteps[at]
        x, end = points[path, at].float(), points[path, -1].float()
        a = alphas[t][:, None, None, None]
        s = (1 - a**2).sqrt()
        with torch.no_grad():
            text = pipe.text_encoder(ids[path].to(DEVICE)).last_hidden_state
        v = pipe.unet(x.to(DEVICE), t.to(DEVICE), text, return_dict=False)[0]
        # From v to the picture it implies: x0 = a x - s v (arXiv 2202.00512, appendix D).
        made = a.to(DEVICE) * x.to(DEVICE) - s.to(DEVICE) * v
        # Pseudo-Huber: outliers at high noise must not drown the fine differences at low noise.
        return (F.mse_loss(made, end.to(DEVICE), reduction="none").mean((1, 2, 3)) + 1e-3).sqrt().mean()

    def look(unet: torch.nn.Module) -> None:
        peek(base_pipeline(unet=unet), "distill", steps=(4, 2, 1))

    average: Any = trainer.run(loss_of, look=look)
    layers = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(average, adapter_name="default").items()}
    metadata = average.peft_config["default"].to_dict()
    replace_folder(
        FOLDER,
        lambda folder: StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata
        ),
    )
    trainer.close()


if __name__ == "__main__":
    train()
