"""A pipeline in one file is laid out as the published files are. Names, shapes and counts are theirs."""

from __future__ import annotations

import diffusers
import pytest
import torch

from benchmarks import bases
from benchmarks.single_files import Pipeline, reduced_pipeline, single_file_tensors


def published(family: str) -> Pipeline:
    """At full width, without memory."""
    models = {
        component: bases.new_model(family, component, device="meta")
        for component in ("unet", "vae", "text_encoder", "text_encoder_2")
        if (bases.FOLDERS[family] / component).is_dir()
    }
    if family == "sdxl":
        scheduler = diffusers.EulerDiscreteScheduler()
        return diffusers.StableDiffusionXLPipeline(
            **models, tokenizer=None, tokenizer_2=None, scheduler=scheduler, add_watermarker=False
        )
    return diffusers.StableDiffusionPipeline(
        **models,
        tokenizer=None,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize(
    ("family", "count", "known"),
    [
        (
            "sd15",
            686 + 248 + 197 + 1,  # UNet, VAE, text encoder with its positions, and the noise schedule
            {
                "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
                "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
                "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
                "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
                "model.diffusion_model.output_blocks.11.1.proj_in.weight": (320, 320, 1, 1),
                "model.diffusion_model.middle_block.2.out_layers.0.weight": (1280,),
                "model.diffusion_model.out.0.weight": (320,),
                "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
            },
        ),
        (
            "sdxl",
            2515,  # of sd_xl_base_1.0.safetensors
            {
                "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
                "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
                "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
                "model.diffusion_model.output_blocks.8.0.emb_layers.1.weight": (320, 1280),
                "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
                "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
                "first_stage_model.decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
                "first_stage_model.decoder.norm_out.weight": (128,),
                "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,),
                "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
                "conditioner.embedders.1.model.transformer.resblocks.31.mlp.c_proj.weight": (1280, 5120),
                "conditioner.embedders.1.model.positional_embedding": (77, 1280),
                "conditioner.embedders.1.model.logit_scale": (),
            },
        ),
    ],
)
def test_a_single_file_is_laid_out_as_the_published_one(
    family: str, count: int, known: dict[str, tuple[int, ...]]
) -> None:
    tensors = single_file_tensors(published(family))
    assert len(tensors) == count
    assert {name: tuple(tensors[name].shape) for name in known if name in tensors} == known


def test_a_reduced_pipeline_has_the_seeds_weights_in_every_dtype_and_leaves_others_draws_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    single, double = (reduced_pipeline("sdxl", seed=3, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(torch.random.get_rng_state(), before)
    for component in ("unet", "vae", "text_encoder"):
        pairs = zip(getattr(single, component).parameters(), getattr(double, component).parameters(), strict=True)
        assert all(torch.equal(one.double(), other) for one, other in pairs)


def test_no_two_tensors_of_a_reduced_pipeline_are_alike_so_that_none_can_pass_for_another() -> None:
    pipe = reduced_pipeline("sdxl", seed=3, dtype=torch.float32)
    sums = [
        parameter.double().sum().item()
        for component in ("unet", "vae", "text_encoder", "text_encoder_2")
        for parameter in getattr(pipe, component).parameters()
    ]
    assert len(set(sums)) == len(sums)
