"""The trainer's clock, on a layer that takes no time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.studio import training
from models.studio.training import Trainer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training, "CACHE", tmp_path)
    return tmp_path


def rates_of(trainer: Trainer[nn.Linear]) -> list[float]:
    """The learning rate of every step of a training."""
    rates: list[float] = []

    def loss_of(generator: torch.Generator) -> Tensor:
        rates.append(trainer._optimiser.param_groups[0]["lr"])
        time.sleep(0.002)
        return trainer.module(torch.randn(4, 3, generator=generator)).square().mean()  # type: ignore[no-any-return]  # Module.__call__ is untyped

    trainer.run(loss_of)
    return rates


def test_a_stage_whose_time_is_up_ends_early_and_its_rate_has_fallen_to_zero_all_the_same() -> None:
    trainer = Trainer("short", nn.Linear(3, 1), steps=100_000, peak_rate=1e-2, limit_s=1)
    began = time.monotonic()
    rates = rates_of(trainer)
    assert time.monotonic() - began < 5
    assert 3 <= len(rates) < 1000
    assert max(rates) > 5e-3 and rates[-1] < 1e-3


def test_a_stage_that_has_time_takes_every_step_at_the_rate_that_its_number_gives() -> None:
    rates = rates_of(Trainer("long", nn.Linear(3, 1), steps=80, peak_rate=1e-2, limit_s=600))
    assert rates == [training.rate(step, 80, 1e-2) for step in range(80)]
    assert rates == rates_of(Trainer("unlimited", nn.Linear(3, 1), steps=80, peak_rate=1e-2))


def test_a_stage_goes_on_from_its_checkpoint_unless_it_is_told_to_begin_anew(cache: Path) -> None:
    def done(*, resumes: bool) -> int:
        return len(rates_of(Trainer("stage", nn.Linear(3, 1), steps=5, peak_rate=1e-2, resumes=resumes)))

    assert done(resumes=False) == 5
    assert list(cache.iterdir()) == []
    assert [done(resumes=True), done(resumes=True)] == [5, 0]
    assert done(resumes=False) == 5
