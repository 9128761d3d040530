"""What every training stage shares: schedule, running average, checkpoints, and files that are swapped in whole."""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from models.studio.dataset import CACHE

STUDIO = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    """Learning rate at ``step``: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Exponential moving average of a module's weights; ``average`` is what ships."""

    def __init__(self, module: M, decay: float) -> None:
        self.average: M = copy.deepcopy(module).requires_grad_(False).eval()
        self._module, self._decay, self._updates = module, decay, 0

    @torch.no_grad()
    def update(self) -> None:
        # A young average follows closely (as in timm's ModelEmaV3), an old one slowly.
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for mean, now in zip(self.average.parameters(), self._module.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


class Trainer(Generic[M]):
    """Runs one stage: optimiser, schedule, average, progress and a checkpoint every few minutes.

    A stage that is interrupted goes on from its checkpoint in the cache folder; the data order is drawn
    from (seed, step), so that a resumed run sees the same batches. ``limit_s`` ends a stage early, its schedule
    hurried so that the rate still falls to zero. One that does not resume begins anew each time, and leaves nothing.
    """

    def __init__(
        self,
        stage: str,
        module: M,
        *,
        steps: int,
        peak_rate: float,
        decay: float = 0.995,
        weight_decay: float = 0.0,
        limit_s: float = math.inf,
        resumes: bool = True,
    ) -> None:
        self.stage, self.module, self.steps, self.peak, self._limit_s = stage, module, steps, peak_rate, limit_s
        self.ema = Ema(module, decay)
        trained = [p for p in module.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(trained, lr=peak_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
        # Where time may end it, the bar counts what is over of that, and no steps
        self._bar_format = (
            None if math.isinf(limit_s) else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        )
        self._file, self._resumes = CACHE / f"{stage}.checkpoint.pt", resumes
        self._first = 0
        if resumes and self._file.exists():
            self._restore()

    def run(
        self,
        loss_of: Callable[[torch.Generator], torch.Tensor],
        *,
        look: Callable[[M], None] | None = None,
        checkpoint_every_s: float = 240,
    ) -> M:
        """Minimises ``loss_of(generator)``, calls ``look(average)`` at each checkpoint; returns the averaged module."""
        saved, shown = time.monotonic(), None
        for step, at in self._steps():
            generator = torch.Generator().manual_seed(1_000_003 * step + 17)
            for group in self._optimiser.param_groups:
                group["lr"] = rate(at, self.steps, self.peak)
            loss = loss_of(generator)
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
            self.ema.update()
            value = loss.item()
            shown = value if shown is None else 0.98 * shown + 0.02 * value
            self._bar.set_postfix(loss=f"{shown:.4f}", refresh=False)
            if time.monotonic() - saved > checkpoint_every_s:
                self._checkpoint(step + 1)
                if look:
                    look(self.ema.average)
                saved = time.monotonic()
        self._checkpoint(self.steps)
        return self.ema.average

    def close(self) -> None:
        """Drops the checkpoint, once what the stage made is safely in its place."""
        self._file.unlink(missing_ok=True)

    def _steps(self) -> Iterator[tuple[int, int]]:
        """Each step, and how far the schedule is: as many steps, or more where the time is too short for all."""
        began, step = time.monotonic(), self._first
        with tqdm(
            desc=self.stage, initial=self._first, total=self.steps, mininterval=5, bar_format=self._bar_format
        ) as self._bar:
            while (at := max(step, int(self.steps * (time.monotonic() - began) / self._limit_s))) < self.steps:
                yield step, at
                step += 1
                self._bar.update(max(step, at) - self._bar.n)

    def _checkpoint(self, next_step: int) -> None:
        if not self._resumes:
            return
        state = {
            "step": next_step,
            "module": self.module.state_dict(),
            "average": self.ema.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        beside = self._file.with_suffix(".part")
        torch.save(state, beside)
        beside.replace(self._file)

    def _restore(self) -> None:
        state = torch.load(self._file, map_location=DEVICE, weights_only=True)
        self._first = state["step"]
        self.module.load_state_dict(state["module"])
        self.ema.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Writes a folder beside its place and swaps it in whole, so that nobody ever reads half of it."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old)
    else:
        beside.rename(folder)


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and renames it over the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{os.getpid()}.{file.name}")
    write(beside)
    beside.replace(file)
