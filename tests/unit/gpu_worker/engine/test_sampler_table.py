"""Tables replayed beside the schedulers that they were read off."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from services.gpu_worker.engine.sampler_table import SamplerRefused, sampler_table

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TRAILING = {"timestep_spacing": "trailing"}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def new(name: str, **config: object) -> Any:  # noqa: ANN401  # diffusers' schedulers share no typed base
    return getattr(diffusers, name)(**{**BETAS, **config})


def begun(name: str, steps: int, **config: object) -> Any:  # noqa: ANN401  # as above
    scheduler = new(name, **config)
    scheduler.set_timesteps(steps)
    return scheduler


def unet(x: Tensor, timestep: float) -> Tensor:
    return torch.tanh(1.3 * x + timestep / 1000)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("name", "config", "eta", "tolerance"),
    [
        ("DDIMScheduler", {"clip_sample": False, **TRAILING}, 0.0, 1e-9),
        ("DDIMScheduler", {"clip_sample": False, **TRAILING, **ZERO_SNR}, 0.0, 1e-9),
        ("DDIMScheduler", {"clip_sample": False, **TRAILING}, 0.5, 1e-9),
        ("TCDScheduler", {}, 1.0, 1e-9),
        ("TCDScheduler", {}, 0.3, 1e-9),
        ("LCMScheduler", {}, 0.0, 1e-9),
        ("EulerDiscreteScheduler", TRAILING, 0.0, 1e-6),
        ("EulerAncestralDiscreteScheduler", TRAILING, 0.0, 1e-6),
    ],
)
def test_a_table_walks_where_its_scheduler_walks(
    name: str, config: dict[str, Any], eta: float, tolerance: float, steps: int
) -> None:
    table = sampler_table(begun(name, steps, **config), steps=steps, eta=eta)
    scheduler = begun(name, steps, **config)
    takes = inspect.signature(scheduler.step).parameters
    theirs, ours = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    shape = (1, 4, 8, 8)
    x = torch.randn(shape, generator=theirs, dtype=torch.float64) * scheduler.init_noise_sigma
    y = torch.randn(shape, generator=ours, dtype=torch.float64) * table.init_scale
    for timestep, step in zip(scheduler.timesteps, table.steps, strict=True):
        extra = {k: v for k, v in {"eta": eta, "generator": theirs}.items() if k in takes}
        e = unet(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(e, timestep, x, **extra).prev_sample
        y = step.keep * y + step.move * unet(step.input_scale * y, step.timestep)
        if step.draws_noise:
            y += step.noise * torch.randn(shape, generator=ours, dtype=torch.float64)
        assert (x - y).abs().max() <= tolerance * x.abs().max()
    assert theirs.get_state().equal(ours.get_state()), "what is drawn next is the same too"


def test_a_step_foresees_what_its_scheduler_foresees() -> None:
    scheduler = begun("DDIMScheduler", 4, clip_sample=False, **TRAILING)
    step = sampler_table(scheduler, steps=4, eta=0.0).steps[0]
    scheduler = begun("DDIMScheduler", 4, clip_sample=False, **TRAILING)
    x, e = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = scheduler.step(e, scheduler.timesteps[0], x).pred_original_sample
    assert torch.allclose(step.estimate_keep * x + step.estimate_move * e, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        ("DDIMScheduler", {"clip_sample": True}, "not linear"),
        ("DDPMScheduler", {}, "not linear"),
        ("DPMSolverMultistepScheduler", {}, "not linear|depends on those before it"),
        ("UniPCMultistepScheduler", {}, "depends on those before it"),
        ("HeunDiscreteScheduler", {}, "calls the UNet 7 times"),
        ("PNDMScheduler", {"skip_prk_steps": True}, "calls the UNet 5 times|depends on those before it"),
    ],
)
def test_a_scheduler_that_clips_or_remembers_is_refused_by_name(name: str, config: dict[str, Any], why: str) -> None:
    with pytest.raises(SamplerRefused, match=why) as refused:
        sampler_table(begun(name, 4, **config), steps=4, eta=0.0)
    assert name in str(refused.value)
