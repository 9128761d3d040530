"""Bases open from a diffusers folder and from one file alike; whatever is missing, left over or foreign is refused."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.single_files import Pipeline, reduced_pipeline, write_single_file
from models.studio.load import STUDIO
from services.gpu_worker.engine.pipelines import PipelineRefused, open_pipeline

FAMILIES = ("sd15", "sdxl")
UNET = "model.diffusion_model."
Change = Callable[[dict[str, Tensor]], object]


class Saved(NamedTuple):
    """A reduced pipeline and both ways to keep it."""

    family: str
    pipe: Pipeline
    folder: Path
    file: Path

    def open(self, source: Path, *, dtype: torch.dtype = torch.float32, family: str | None = None) -> Pipeline:
        config = self.folder if source.is_file() else None
        return open_pipeline(source, family=family or self.family, dtype=dtype, config=config)

    def refused(self, source: Path, *, family: str | None = None) -> str:
        with pytest.raises(PipelineRefused) as caught:
            self.open(source, family=family)
        return str(caught.value)


def save(family: str, place: Path) -> Saved:
    pipe = reduced_pipeline(family, seed=1, dtype=torch.float32)
    folder, file = place / family, place / f"{family}.safetensors"
    pipe.save_pretrained(folder)
    for tokenizer in folder.glob("tokenizer*"):
        shutil.rmtree(tokenizer)
    write_single_file(pipe, file)
    return Saved(family, pipe, folder, file)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    place = tmp_path_factory.mktemp("bases")
    return {family: save(family, place) for family in FAMILIES}


@pytest.fixture(scope="module")
def sd15(both: dict[str, Saved]) -> Saved:
    return both["sd15"]


@pytest.fixture(scope="module")
def sdxl(both: dict[str, Saved]) -> Saved:
    return both["sdxl"]


@pytest.fixture(params=FAMILIES)
def saved(both: dict[str, Saved], request: pytest.FixtureRequest) -> Saved:
    return both[request.param]


def weights(pipe: Pipeline) -> dict[str, Tensor]:
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{tensor}": value for name, model in models.items() for tensor, value in model.state_dict().items()}


def differences(one: Pipeline, other: Pipeline) -> list[str]:
    """Names of weights that only one has, or that differ in any bit."""
    first, second = weights(one), weights(other)
    return sorted(
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    )


def painted(pipe: Pipeline) -> NDArray[np.float32]:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        "a red bicycle!",
        negative_prompt="",
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(7),
    )
    picture: NDArray[np.float32] = made.images[0]
    return picture


def copied(folder: Path, place: Path) -> Path:
    """A diffusers folder whose files can be changed one by one; the others are links."""
    for file in folder.rglob("*"):
        if file.is_file():
            link = place / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return place


def rewrite(file: Path, change: Change, to: Path | None = None) -> Path:
    tensors = load_file(file)
    change(tensors)
    to = to or file
    to.unlink(missing_ok=True)
    save_file(tensors, to)
    return to


def configure(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.unlink()
    file.write_text(json.dumps(content))


def weight_file(folder: Path, component: str) -> Path:
    (file,) = (folder / component).glob("*.safetensors")
    return file


def drop(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def put(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Change:
    return lambda tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)})


# What opens


def test_a_folder_and_a_single_file_give_the_saved_weights_bit_for_bit_and_paint_as_they_did(saved: Saved) -> None:
    expected = painted(saved.pipe)
    for source in (saved.folder, saved.file):
        opened = saved.open(source)
        assert differences(opened, saved.pipe) == []
        assert np.array_equal(painted(opened), expected)


def test_an_opened_base_equals_what_bare_diffusers_opens(sdxl: Saved, tmp_path: Path) -> None:
    folder = copied(sdxl.folder, tmp_path)
    sdxl.pipe.tokenizer.save_pretrained(folder / "tokenizer")
    sdxl.pipe.tokenizer_2.save_pretrained(folder / "tokenizer_2")
    configure(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    bare = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float64, local_files_only=True)
    opened = open_pipeline(sdxl.file, family="sdxl", dtype=torch.float64, config=folder)
    assert differences(opened, bare) == []
    assert np.array_equal(painted(opened), painted(bare))
    assert opened.config.force_zeros_for_empty_prompt is False


def test_weights_come_frozen_in_the_asked_dtype_and_no_picture_is_checked_or_marked(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where that library is installed, diffusers marks SDXL's pictures unless told not to
    monkeypatch.setattr(pipeline_stable_diffusion_xl, "is_invisible_watermark_available", lambda: True)
    pipe = saved.open(saved.folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in weights(pipe).values()} == {torch.bfloat16}
    models = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert not any(model.training or next(model.parameters()).requires_grad for model in models)
    assert getattr(pipe, "safety_checker", None) is None
    assert getattr(pipe, "watermark", None) is None


def test_an_open_base_keeps_its_weights_when_its_file_changes(sd15: Saved, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    shutil.copy(sd15.file, file)
    pipe = sd15.open(file)
    with file.open("r+b") as stream:
        stream.seek(-1_000_000, 2)
        stream.write(bytes(1_000_000))
    assert differences(pipe, sd15.pipe) == []


@pytest.mark.parametrize("how", [{"variant": "fp16"}, {"max_shard_size": "3MB"}])
def test_a_folder_may_be_sharded_or_hold_only_fp16_files(sd15: Saved, tmp_path: Path, how: dict[str, str]) -> None:
    sd15.pipe.save_pretrained(tmp_path, **how)
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert differences(sd15.open(tmp_path), sd15.pipe) == []


def test_of_two_precisions_the_full_one_is_opened(sd15: Saved, tmp_path: Path) -> None:
    folder = copied(sd15.folder, tmp_path)
    full = weight_file(folder, "unet")
    rewrite(full, lambda tensors: [t.zero_() for t in tensors.values()], full.with_suffix(".fp16.safetensors"))
    assert differences(sd15.open(folder), sd15.pipe) == []


def test_a_folder_may_name_tensors_as_stable_diffusion_1s_own_does(sd15: Saved, tmp_path: Path) -> None:
    folder = copied(sd15.folder, tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older_vae(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for now, before in old.items():
                if f"attentions.0.{now}." in name:
                    tensors[name.replace(now, before)] = tensors.pop(name)

    def older_encoder(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name.removeprefix('text_model.')}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    vae = rewrite(weight_file(folder, "vae"), older_vae)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in load_file(vae)
    rewrite(weight_file(folder, "text_encoder"), older_encoder)
    assert differences(sd15.open(folder), sd15.pipe) == []


def test_what_text_encoders_carry_along_is_left_alone(sdxl: Saved, tmp_path: Path) -> None:
    def carry(tensors: dict[str, Tensor]) -> None:
        tensors["conditioner.embedders.0.transformer.text_projection.weight"] = torch.zeros(18, 18)
        tensors["conditioner.embedders.0.logit_scale"] = torch.zeros(1)

    assert differences(sdxl.open(rewrite(sdxl.file, carry, tmp_path / "a.safetensors")), sdxl.pipe) == []


def test_a_family_of_ones_own_opens_from_a_folder() -> None:
    pipe = open_pipeline(STUDIO / "base", family="studio", dtype=torch.float32)
    bare = StableDiffusionPipeline.from_pretrained(STUDIO / "base", dtype=torch.float32, local_files_only=True)
    assert differences(pipe, bare) == []


# Without a network


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every address that someone tries to reach; none can be."""
    addresses: list[object] = []

    def refuse(*args: object, **named: object) -> object:
        addresses.append(args)
        raise OSError("there is no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it must not need to be told
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return addresses


def test_a_base_without_tokenizers_gets_clips_and_asks_no_network(sdxl: Saved, asked: list[object]) -> None:
    assert not [*sdxl.folder.glob("tokenizer*")]
    for pipe in (sdxl.open(sdxl.folder), sdxl.open(sdxl.file)):
        assert pipe.tokenizer("a cat", padding="max_length").input_ids[:5] == [49406, 320, 2368, 49407, 49407]
        assert pipe.tokenizer_2("a cat", padding="max_length").input_ids[:5] == [49406, 320, 2368, 49407, 0]
    assert asked == []


def test_a_base_with_its_own_tokenizer_keeps_it_and_asks_no_network(asked: list[object]) -> None:
    pipe = open_pipeline(STUDIO / "base", family="studio", dtype=torch.float32)
    assert len(pipe.tokenizer) == 1175
    assert asked == []


# Weights that are not the model's


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("unet", "mid_block.resnets.0.norm1.weight"),
        ("vae", "decoder.conv_in.bias"),
        ("text_encoder", "final_layer_norm.bias"),
        ("text_encoder_2", "text_projection.weight"),
    ],
)
def test_a_tensor_that_a_folder_lacks_is_named(sdxl: Saved, tmp_path: Path, component: str, name: str) -> None:
    folder = copied(sdxl.folder, tmp_path)
    rewrite(weight_file(folder, component), drop(name))
    said = sdxl.refused(folder)
    assert f"{folder / component}: {component} lacks {name}, " in said
    assert "Fetch the file again" in said


@pytest.mark.parametrize(
    ("family", "name", "as_"),
    [
        ("sd15", f"{UNET}input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
        ("sd15", f"{UNET}output_blocks.2.1.conv.bias", "output_blocks.2.1.conv.bias"),
        ("sd15", f"{UNET}middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
        (
            "sd15",
            "first_stage_model.encoder.down.0.downsample.conv.bias",
            "encoder.down_blocks.0.downsamplers.0.conv.bias",
        ),
        ("sd15", "cond_stage_model.transformer.text_model.final_layer_norm.bias", "final_layer_norm.bias"),
        ("sdxl", f"{UNET}label_emb.0.0.weight", "label_emb.0.0.weight"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "final_layer_norm.bias"),
        ("sdxl", "conditioner.embedders.1.model.text_projection", "text_projection.weight"),
        (
            "sdxl",
            "conditioner.embedders.1.model.transformer.resblocks.4.attn.in_proj_bias",
            "text_model.encoder.layers.4.self_attn.k_proj.bias",
        ),
    ],
)
def test_a_tensor_that_a_single_file_lacks_is_named(
    both: dict[str, Saved], tmp_path: Path, family: str, name: str, as_: str
) -> None:
    saved = both[family]
    said = saved.refused(rewrite(saved.file, drop(name), tmp_path / "base.safetensors"))
    assert " lacks " in said and as_ in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("conv_in.weight", 16, 4, 1, 1), "conv_in.weight has the shape [16, 4, 1, 1], not [16, 4, 3, 3]"),
        (put("conv_in.bias", 16, dtype=torch.int8), "conv_in.bias is quantised to integers"),
        (put("conv_in.scale", 32), "has no place for conv_in.scale"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(sd15: Saved, tmp_path: Path, change: Change, words: str) -> None:
    folder = copied(sd15.folder, tmp_path)
    rewrite(weight_file(folder, "unet"), change)
    assert words in sd15.refused(folder)


def test_a_tensor_of_a_single_file_that_would_not_act_is_named(sd15: Saved, tmp_path: Path) -> None:
    file = rewrite(sd15.file, put(f"{UNET}input_blocks.0.0.scale", 32), tmp_path / "base.safetensors")
    assert f"has no place for {UNET}input_blocks.0.0.scale" in sd15.refused(file)


def test_a_single_file_is_taken_for_a_published_base_unless_a_config_says_otherwise(saved: Saved) -> None:
    with pytest.raises(PipelineRefused, match="ive the config that it was trained with") as caught:
        open_pipeline(saved.file, family=saved.family, dtype=torch.float32)
    assert {"sd15": "has the shape", "sdxl": "and 1057 more"}[saved.family] in str(caught.value)


def test_leftovers_of_another_save_are_named(sd15: Saved, tmp_path: Path) -> None:
    folder = copied(sd15.folder, tmp_path)
    file = weight_file(folder, "unet")
    for shard in ("00001-of-00002", "00001-of-00003"):
        shutil.copy(file, file.with_name(f"diffusion_pytorch_model-{shard}.safetensors"))
    file.unlink()
    assert "both hold conv_in.bias. Remove the one" in sd15.refused(folder)


# Files that are no weights


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("base.ckpt", b"PK\x03\x04", "is a pickle, which can run code"),
        ("base.gguf", b"GGUF", "is no safetensors file"),
        ("base.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer and not the file"),
        ("base.safetensors", b"{}", "too few for any safetensors file"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineRefused, match=words):
        open_pipeline(tmp_path / name, family="sdxl", dtype=torch.float32)


def test_a_folder_of_pickles_is_refused_with_what_to_do(sd15: Saved, tmp_path: Path) -> None:
    folder = copied(sd15.folder, tmp_path)
    weight_file(folder, "vae").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    said = sd15.refused(folder)
    assert "diffusion_pytorch_model.bin is a pickle" in said and "convert it" in said


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model_index.json", r"model_index\.json can't be read: No such file"),
        ("unet/config.json", r"unet/config\.json can't be read: No such file"),
        ("text_encoder/model.safetensors", r"text_encoder holds no model\.safetensors"),
        ("scheduler/scheduler_config.json", r"scheduler_config\.json can't be read: No such file"),
    ],
)
def test_a_file_that_a_folder_lacks_is_named(sd15: Saved, tmp_path: Path, gone: str, words: str) -> None:
    folder = copied(sd15.folder, tmp_path)
    (folder / gone).unlink()
    with pytest.raises(PipelineRefused, match=words):
        sd15.open(folder)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ("unet/config.json", {"norm_num_groups": 7}, "describes no UNet2DConditionModel"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "describes no CLIPTextModel"),
        ("scheduler/scheduler_config.json", {"_class_name": "UNet2DModel"}, "names no scheduler"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none"}, "describes no PNDMScheduler"),
        ("text_encoder/config.json", {"vocab_size": 1000}, "has the shape [49408, 18], not [1000, 18]"),
    ],
)
def test_a_config_of_another_model_is_refused(
    sd15: Saved, tmp_path: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    folder = copied(sd15.folder, tmp_path)
    configure(folder / file, **changes)
    assert words in sd15.refused(folder)


def test_a_tokenizer_with_more_words_than_its_text_encoder_is_refused(tmp_path: Path) -> None:
    folder = copied(STUDIO / "base", tmp_path)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(PipelineRefused, match="has 49408 tokens, but its text encoder knows 1175"):
        open_pipeline(folder, family="sd15", dtype=torch.float32)
    with pytest.raises(PipelineRefused, match="no tokenizer, and that of the family studio is not known"):
        open_pipeline(folder, family="studio", dtype=torch.float32)


def test_a_text_encoder_of_another_width_than_the_unet_reads_is_refused(sd15: Saved, tmp_path: Path) -> None:
    folder = copied(sd15.folder, tmp_path)
    shutil.rmtree(folder / "text_encoder")
    other = {**sd15.pipe.text_encoder.config.to_dict(), "hidden_size": 30}
    CLIPTextModel(CLIPTextConfig.from_dict(other)).save_pretrained(folder / "text_encoder")
    assert "has a UNet that reads text of width 18, but its text encoders write 30" in sd15.refused(folder)


def test_a_source_that_is_not_there_or_not_alone_is_refused(sd15: Saved, tmp_path: Path) -> None:
    with pytest.raises(PipelineRefused, match="does not exist"):
        open_pipeline(tmp_path / "nowhere", family="sd15", dtype=torch.float32)
    with pytest.raises(PipelineRefused, match="has its own configs"):
        open_pipeline(sd15.folder, family="sd15", dtype=torch.float32, config=sd15.folder)
    with pytest.raises(PipelineRefused, match="is a single file, which only sd15 and sdxl"):
        open_pipeline(sd15.file, family="sd2", dtype=torch.float32)


# Models that are not the recipe's family


def test_another_family_is_refused_by_what_was_found(sd15: Saved, sdxl: Saved) -> None:
    for source in (sdxl.folder, sdxl.file):
        said = sdxl.refused(source, family="sd15")
        assert "is SDXL, not Stable Diffusion 1.x: its UNet reads text of width 48, and it has a second" in said
        assert 'Set family = "sdxl"' in said
    assert "has no second text encoder, and its UNet reads text of width 18" in sd15.refused(sd15.folder, family="sdxl")
    assert "is Stable Diffusion 1.x, not SDXL" in sd15.refused(sd15.file, family="sdxl")
    assert "the family studio opens as StableDiffusionPipeline" in sdxl.refused(sdxl.folder, family="studio")


def headers(place: Path, tensors: Mapping[str, tuple[int, ...]]) -> Path:
    """A file of which no more than its header makes sense."""
    file = place / "base.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    return file


@pytest.mark.parametrize(
    ("family", "width", "words"),
    [
        ("sd15", 1024, 'is Stable Diffusion 2.x, not Stable Diffusion 1.x.*width 1024.*Set family = "sd2"'),
        ("sd2", 768, "is Stable Diffusion 1.x, not Stable Diffusion 2.x"),
        ("sdxl", 1280, "is SDXL's refiner, not SDXL: its UNet reads text of width 1280 from one"),
        ("sdxl", 768, "is Stable Diffusion 1.x, not SDXL"),
        ("sd15", 2048, "is SDXL, not Stable Diffusion 1.x"),
    ],
)
def test_a_published_width_of_text_tells_the_family(tmp_path: Path, family: str, width: int, words: str) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    headers(tmp_path, {name: (4, width)}).rename(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(PipelineRefused, match=words):
        open_pipeline(tmp_path, family=family, dtype=torch.float32)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("cond_stage_model.model.ln_final.bias", "is Stable Diffusion 2.x, not SDXL"),
        ("conditioner.embedders.0.model.ln_final.bias", "is SDXL's refiner, not SDXL"),
        ("text_encoders.clip_l.ln_final.bias", "has no text_encoder .conditioner.embedders.0.transformer"),
    ],
)
def test_the_text_encoders_of_a_single_file_tell_the_family(tmp_path: Path, encoder: str, words: str) -> None:
    names = (f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "first_stage_model.a", encoder)
    with pytest.raises(PipelineRefused, match=words):
        open_pipeline(headers(tmp_path, dict.fromkeys(names, (4, 48))), family="sdxl", dtype=torch.float32)


@pytest.mark.parametrize(
    ("channels", "words"), [(9, "is an inpainting model"), (8, "is an InstructPix2Pix model"), (6, "takes 6 channels")]
)
def test_a_unet_that_takes_more_than_latents_is_refused(
    saved: Saved, tmp_path: Path, channels: int, words: str
) -> None:
    folder = copied(saved.folder, tmp_path / "folder")
    rewrite(weight_file(folder, "unet"), put("conv_in.weight", 16, channels, 3, 3))
    file = rewrite(saved.file, put(f"{UNET}input_blocks.0.0.weight", 16, channels, 3, 3), tmp_path / "base.safetensors")
    for source in (folder, file):
        assert words in saved.refused(source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_cond_proj_dim": 256}, "takes guidance as an embedding (time_cond_proj_dim)"),
        ({"class_embed_type": "projection"}, "takes more than text and time (class_embed_type = projection)"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "(encoder_hid_dim_type = ip_image_proj)"),
        ({"projection_class_embeddings_input_dim": 30 + 5 * 16}, "is SDXL's refiner: its UNet asks for an aesthetic"),
        ({"projection_class_embeddings_input_dim": 999}, "takes 999 pooled values, but"),
        ({"addition_embed_type": None}, "takes nothing pooled"),
    ],
)
def test_a_unet_that_asks_for_other_conditions_is_refused(
    sdxl: Saved, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = copied(sdxl.folder, tmp_path)
    configure(folder / "unet" / "config.json", **changes)
    assert words in sdxl.refused(folder)


def test_an_embedding_of_guidance_shows_in_the_weights_too(sd15: Saved, tmp_path: Path) -> None:
    file = rewrite(sd15.file, put(f"{UNET}time_embed.cond_proj.weight", 32, 256), tmp_path / "base.safetensors")
    assert "takes guidance as an embedding" in sd15.refused(file)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FluxPipeline", "Flux is a transformer; Looksmith batches UNets only"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3 is a transformer"),
        ("PixArtSigmaPipeline", "PixArt is a transformer"),
        ("AuraFlowPipeline", "AuraFlow is a transformer"),
        ("SanaPipeline", "Sana is a transformer"),
        ("HunyuanDiTPipeline", "Hunyuan-DiT is a transformer"),
        ("StableCascadeDecoderPipeline", "Stable Cascade paints in two stages"),
        ("KandinskyV22Pipeline", "Kandinsky paints after another model's"),
        ("KolorsPipeline", "Kolors reads prompts with ChatGLM"),
        ("IFPipeline", "DeepFloyd IF paints pixels"),
        ("LatentConsistencyModelPipeline", "takes guidance as an embedding"),
        ("StableDiffusionInpaintPipeline", "an inpainting model starts from a picture"),
        ("StableDiffusionXLInstructPix2PixPipeline", "an InstructPix2Pix model starts from a picture"),
        ("StableDiffusionXLImg2ImgPipeline", "SDXL's refiner, or a base that was saved"),
        ("StableDiffusionControlNetPipeline", "Looksmith paints with StableDiffusionPipeline and"),
    ],
)
def test_a_folder_of_another_model_is_refused_by_its_name(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(PipelineRefused, match=words) as caught:
        open_pipeline(tmp_path, family="sdxl", dtype=torch.float32)
    assert f"{tmp_path} holds {kind}" in str(caught.value)


def test_a_transformer_that_has_no_name_here_is_still_told_from_a_unet(tmp_path: Path) -> None:
    index = {"_class_name": "NextYearPipeline", "transformer": ["diffusers", "NextYearTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(PipelineRefused, match="NextYearPipeline, which is a transformer"):
        open_pipeline(tmp_path, family="sdxl", dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "Flux, which is a transformer"),
        (f"{UNET}double_blocks.0.img_attn.qkv.weight", "Flux, which is a transformer"),
        (f"{UNET}joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3, which is a transformer"),
        ("model.double_layers.0.attn.w1q.weight", "AuraFlow, which is a transformer"),
        ("t_block.1.weight", "PixArt, which is a transformer"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "is a LoRA and no base"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "is a LoRA and no base"),
        ("down_blocks.0.resnets.0.conv1.weight", "is a UNet alone"),
        (f"{UNET}input_blocks.0.0.weight", "has no vae .first_stage_model"),
        ("visual.proj", "is no checkpoint of Stable Diffusion: it has no model.diffusion_model.…, but visual.proj"),
    ],
)
def test_a_file_of_another_model_is_refused_by_its_names(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(PipelineRefused, match=words):
        open_pipeline(headers(tmp_path, {name: (4, 4)}), family="sd15", dtype=torch.float32)
