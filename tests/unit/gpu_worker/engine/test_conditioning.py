"""What the UNet is told, beside what diffusers' own pipelines tell it."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from benchmarks.single_files import Pipeline, reduced_pipeline
from services.gpu_worker.engine.conditioning import added, encoded

PROMPT, NEGATIVE = "a red kite", "blurred"
FAMILIES = ("sd15", "sdxl")


@cache
def pipeline(family: str) -> Pipeline:
    return reduced_pipeline(family, seed=0, dtype=torch.float64)


def by_diffusers(pipe: Pipeline, **options: object) -> list[torch.Tensor]:
    """What ``encode_prompt`` gives: the prompt's, the negative's, and for SDXL the same pooled."""
    made: tuple[torch.Tensor, ...] = pipe.encode_prompt(
        PROMPT, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=True, **options
    )
    return list(made)


def shorter(pipe: Pipeline, layers: int) -> Pipeline:
    """The pipeline with a text encoder that lacks its last layers."""
    pipe = copy.copy(pipe)
    pipe.text_encoder = copy.deepcopy(pipe.text_encoder)
    encoder = pipe.text_encoder.encoder
    encoder.layers = encoder.layers[: len(encoder.layers) - layers]
    return pipe


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("negative", ["", NEGATIVE])
@pytest.mark.parametrize("clip_skip", [0, 1])
def test_a_guided_prompt_is_encoded_as_by_the_pipeline_with_the_negative_one_first(
    family: str, negative: str, clip_skip: int
) -> None:
    pipe = pipeline(family)
    ours = encoded(pipe, PROMPT, negative, guided=True, clip_skip=clip_skip)
    if family == "sdxl":
        asked, without, *pooled = by_diffusers(pipe, negative_prompt=negative or None, clip_skip=clip_skip or None)
    else:  # with transformers 5, diffusers 0.42 fails on clip_skip: an encoder that has fewer layers says the same
        _, without = by_diffusers(pipe, negative_prompt=negative or None)
        asked, _ = by_diffusers(shorter(pipe, clip_skip))
    assert torch.equal(ours.embeds, torch.cat([without, asked]))
    if family == "sdxl":
        assert ours.pooled is not None and torch.equal(ours.pooled, torch.cat([pooled[1], pooled[0]]))
    else:
        assert ours.pooled is None


def test_sdxl_without_a_negative_prompt_is_unlike_nothing_at_all() -> None:
    """Not unlike an empty prompt, as Stable Diffusion 1.5 is."""
    without, _ = encoded(pipeline("sdxl"), PROMPT, "", guided=True, clip_skip=0).embeds
    assert not without.any()
    without, _ = encoded(pipeline("sd15"), PROMPT, "", guided=True, clip_skip=0).embeds
    assert without.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_skipped_and_guidance_change_what_is_told(family: str) -> None:
    pipe = pipeline(family)
    plain = encoded(pipe, PROMPT, NEGATIVE, guided=False, clip_skip=0)
    assert len(plain.embeds) == 1
    assert torch.equal(plain.embeds[0], encoded(pipe, PROMPT, NEGATIVE, guided=True, clip_skip=0).embeds[1])
    assert not torch.equal(plain.embeds, encoded(pipe, PROMPT, NEGATIVE, guided=False, clip_skip=1).embeds)


def test_sdxl_is_told_the_picture_s_size_as_by_the_pipeline_and_sd15_nothing_more() -> None:
    pipe = pipeline("sdxl")
    told = added(encoded(pipe, PROMPT, NEGATIVE, guided=True, clip_skip=0), width=832, height=1216)
    theirs = pipe._get_add_time_ids(
        (1216, 832), (0, 0), (1216, 832), torch.float64, pipe.text_encoder_2.config.projection_dim
    )
    assert torch.equal(told["time_ids"], theirs.expand(2, -1))
    assert told["text_embeds"].shape == (2, pipe.text_encoder_2.config.projection_dim)
    told = added(encoded(pipeline("sd15"), PROMPT, "", guided=False, clip_skip=0), width=64, height=64)
    assert told == {}
