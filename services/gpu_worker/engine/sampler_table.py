"""A sampler as numbers: each step is x' = keep x + move e + noise z, read off diffusers' own scheduler.

So a table equals its scheduler by construction, after an upgrade too. A scheduler that clips, or remembers earlier
steps, is refused by name. Knows nothing about rows or pictures.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

_SHAPE = (1, 4, 8, 8)
_SEED = 17
# These step in float32 whatever they are given.
_FLOAT32 = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


class SamplerRefused(ValueError):
    """The sampler's steps can't be written as one table."""

    def __init__(self, sampler: str, why: str) -> None:
        super().__init__(f"{sampler} can't share a batch: {why}")


@dataclass(frozen=True)
class SamplerStep:
    """With x the latents, e what the UNet says of ``input_scale * x``, and z fresh noise of unit variance."""

    timestep: float
    input_scale: float
    keep: float
    move: float
    noise: float
    draws_noise: bool  # also where ``noise`` is 0: the generator moves on
    estimate_keep: float  # the picture that this step foresees is estimate_keep x + estimate_move e
    estimate_move: float


@dataclass(frozen=True)
class SamplerTable:
    """One number of steps of one sampler. Latents begin as noise times ``init_scale``."""

    init_scale: float
    steps: tuple[SamplerStep, ...]


def sampler_table(scheduler: Any, *, steps: int, eta: float) -> SamplerTable:  # noqa: ANN401  # diffusers' schedulers share no typed base
    """Probes a scheduler with basis inputs, in float64.

    Args:
        scheduler: set to its steps, and not begun.
        steps: how many it is to take.
        eta: given to schedulers whose step takes one.

    Raises:
        SamplerRefused: it is not affine, or has a memory.
    """
    name = type(scheduler).__name__
    if len(scheduler.timesteps) != steps:
        raise SamplerRefused(name, f"for {steps} steps it calls the UNet {len(scheduler.timesteps)} times")
    generator = torch.Generator().manual_seed(_SEED)
    table = []
    for timestep in scheduler.timesteps:
        table.append(_probe(scheduler, timestep, eta))
        # On with anything: what it remembers of this must not show in the next step.
        _step(scheduler, timestep, _random(generator), _random(generator), eta)
    return SamplerTable(float(scheduler.init_noise_sigma), tuple(table))


def _probe(scheduler: Any, timestep: Tensor, eta: float) -> SamplerStep:  # noqa: ANN401  # diffusers' schedulers share no typed base
    name = type(scheduler).__name__

    def at(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor, bool]:
        return _step(copy.deepcopy(scheduler), timestep, e, x, eta)

    zero, one = torch.zeros(_SHAPE, dtype=torch.float64), torch.ones(_SHAPE, dtype=torch.float64)
    alike = partial(_alike, tolerance=1e-6 if name in _FLOAT32 else 1e-9)
    still, foreseen_still, draws = at(zero, zero)
    z = randn_tensor(_SHAPE, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    noise = float((still * z).sum() / (z * z).sum()) if draws else 0.0
    if not alike(still, noise * z) or not alike(foreseen_still, zero):
        raise SamplerRefused(name, "a step depends on those before it")
    kept, foreseen_kept, _ = at(one, zero)
    moved, foreseen_moved, _ = at(zero, one)
    step = SamplerStep(
        timestep=float(timestep),
        input_scale=float(copy.deepcopy(scheduler).scale_model_input(one, timestep).mean()),
        keep=float((kept - still).mean()),
        move=float((moved - still).mean()),
        noise=noise,
        draws_noise=draws,
        estimate_keep=float(foreseen_kept.mean()),
        estimate_move=float(foreseen_moved.mean()),
    )
    # Large values, so that clipping shows.
    generator = torch.Generator().manual_seed(_SEED + 1)
    x, e = 10 * _random(generator), 10 * _random(generator)
    stepped, foreseen, _ = at(x, e)
    if not alike(stepped, step.keep * x + step.move * e + noise * z):
        raise SamplerRefused(name, "a step is not linear in what it is given (does it clip?)")
    if not alike(foreseen, step.estimate_keep * x + step.estimate_move * e):
        raise SamplerRefused(name, "what a step foresees is not linear in what it is given (does it clip?)")
    return step


def _step(scheduler: Any, timestep: Tensor, e: Tensor, x: Tensor, eta: float) -> tuple[Tensor, Tensor, bool]:  # noqa: ANN401  # as above
    """The latents after a step, the picture that it foresees, and whether it drew noise."""
    generator = torch.Generator().manual_seed(_SEED)
    untouched = generator.get_state()
    takes = inspect.signature(scheduler.step).parameters
    extra = {key: value for key, value in (("eta", eta), ("generator", generator)) if key in takes}
    scheduler.scale_model_input(x, timestep)  # some insist
    made = scheduler.step(e, timestep, x, **extra)
    drew = not torch.equal(untouched, generator.get_state())
    return made.prev_sample, foreseen(made), drew


def foreseen(made: object) -> Tensor:
    """What a step thinks the end will be, where its sampler says; else where it stands, or would without new noise."""
    for name in ("pred_original_sample", "denoised", "pred_noised_sample", "prev_sample"):
        estimate = getattr(made, name, None)
        if isinstance(estimate, Tensor):
            return estimate
    raise TypeError(f"{type(made).__name__} holds no latents")


def _random(generator: torch.Generator) -> Tensor:
    return torch.randn(_SHAPE, generator=generator, dtype=torch.float64)


def _alike(a: Tensor, b: Tensor, *, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(a.abs().max())))
