"""The bases are the published ones at full width. The figures were counted from the published weights."""

from __future__ import annotations

import diffusers
import pytest

from benchmarks import bases


@pytest.mark.parametrize(
    ("family", "component", "parameters"),
    [
        ("sd15", "unet", 859_520_964),
        ("sd15", "text_encoder", 123_060_480),
        ("sd15", "vae", 83_653_863),
        ("sd2", "unet", 865_910_724),
        ("sd2", "text_encoder", 340_387_840),
        ("sd2", "vae", 83_653_863),
        ("sdxl", "unet", 2_567_463_684),
        ("sdxl", "text_encoder", 123_060_480),
        ("sdxl", "text_encoder_2", 694_659_840),
        ("sdxl", "vae", 83_653_863),
    ],
)
def test_a_model_has_as_many_parameters_as_the_published_one(family: str, component: str, parameters: int) -> None:
    model = bases.new_model(family, component, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("family", bases.FAMILIES)
def test_a_decoder_has_as_many_parameters_as_the_published_one(family: str) -> None:
    decoder = bases.new_model(family, "vae", device="meta").get_submodule("decoder")
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 49_490_179


def test_a_model_is_born_in_bfloat16_and_leaves_the_default_type_alone() -> None:
    before = diffusers.AutoencoderTiny().dtype
    assert {str(p.dtype) for p in bases.new_model("sd15", "vae", device="meta").parameters()} == {"torch.bfloat16"}
    assert diffusers.AutoencoderTiny().dtype == before


def test_a_component_that_a_base_does_not_have_is_not_made_up() -> None:
    with pytest.raises(FileNotFoundError):
        bases.new_model("sd15", "text_encoder_2", device="meta")


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("sd15", diffusers.PNDMScheduler),
        ("sd2", diffusers.DDIMScheduler),
        ("sdxl", diffusers.EulerDiscreteScheduler),
    ],
)
def test_a_base_has_the_scheduler_that_it_was_published_with(family: str, kind: type) -> None:
    scheduler = kind.from_pretrained(bases.FOLDERS[family], subfolder="scheduler")  # type: ignore[attr-defined]  # of diffusers
    assert scheduler.config.beta_schedule == "scaled_linear"
