"""The judge: a small network that tells object, colour, background and look. It only ever saw drawings."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.studio.dataset import pictures, scenes
from models.studio.scenes import BACKGROUNDS, COLOURS, LOOKS, OBJECTS, Scene
from models.studio.train_vae import to_pixels
from models.studio.training import DEVICE, STUDIO, Trainer, replace_file

STEPS, BATCH, PEAK_RATE = 1200, 64, 3e-3
PLAIN_PICTURES, LOOK_PICTURES = 5000, 1000
FILE = STUDIO / "judge" / "model.safetensors"

ANSWERS: dict[str, tuple[str, ...]] = {
    "subject": OBJECTS,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "look": LOOKS,
}


class Judge(nn.Module):
    """Pictures [n, 3, 128, 128] in -1..1 to one logit vector a question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128, 128)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(words)) for name, words in ANSWERS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def answers(self, images: list[Image.Image]) -> list[dict[str, str]]:
        """What each picture shows, in words."""
        said: list[dict[str, str]] = []
        for start in range(0, len(images), 100):
            x = to_pixels(
                torch.from_numpy(np.stack([np.asarray(i.convert("RGB")) for i in images[start : start + 100]]))
            )
            picks = {name: logits.argmax(1).tolist() for name, logits in self(x.to(DEVICE)).items()}
            said += [{name: ANSWERS[name][picks[name][i]] for name in ANSWERS} for i in range(len(x))]
        return said


def load(file: Path = FILE) -> Judge:
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
    return judge.to(DEVICE).eval()


def _roughen(x: Tensor, generator: torch.Generator) -> Tensor:
    """Small shifts, blur and noise: what separates a decoded picture from a drawn one."""
    dx, dy = torch.randint(-6, 7, (2,), generator=generator).tolist()
    x = torch.roll(F.pad(x, (6, 6, 6, 6), mode="replicate"), (dx, dy), (2, 3))[..., 6:-6, 6:-6]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 1.5 * torch.rand(len(x), 1, 1, 1, generator=generator)
    x = x.lerp(soft, share.clamp(max=1).to(x.device))
    return x + 0.06 * torch.randn(x.shape, generator=generator).to(x.device)


def train() -> None:
    torch.manual_seed(3)
    wanted: list[Scene] = []
    drawn = []
    for look in LOOKS:
        part = scenes(
            "judge",
            PLAIN_PICTURES if look == "none" else LOOK_PICTURES,
            look=look,
            start=0 if look == "none" else 100_000,
        )
        wanted += part
        drawn.append(torch.from_numpy(pictures(part, name=f"judge-{look}")))
    x_all = torch.cat(drawn)
    labels = {name: torch.tensor([words.index(getattr(s, name)) for s in wanted]) for name, words in ANSWERS.items()}
    judge = Judge().to(DEVICE)
    trainer = Trainer("judge", judge, steps=STEPS, peak_rate=PEAK_RATE, weight_decay=1e-2)

    def loss_of(generator: torch.Generator) -> Tensor:
        picks = torch.randint(len(x_all), (BATCH,), generator=generator)
        logits = judge(_roughen(to_pixels(x_all[picks]).to(DEVICE), generator))
        return torch.stack([F.cross_entropy(logits[name], labels[name][picks].to(DEVICE)) for name in ANSWERS]).sum()

    trainer.run(loss_of)
    # The weights themselves, not their average: batch statistics belong to them.
    state = {k: v.half() if v.is_floating_point() else v for k, v in judge.eval().state_dict().items()}
    replace_file(FILE, lambda beside: save_file(state, beside))
    trainer.close()


if __name__ == "__main__":
    train()
