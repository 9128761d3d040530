"""Tells what kind of model lies in a folder or file, by its index, tensor names and widths, and why it can't be served.

Pure: reading files is base_weights.py's, opening models pipelines.py's. Each reason completes a sentence that begins
with the file or folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

#: How the original layout names the parts of a checkpoint, by family.
PREFIXES = {
    "sd15": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    },
    "sdxl": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}

_NAMES = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "refiner": "SDXL's refiner",
}
_TEXT_WIDTHS = {768: "sd15", 1024: "sd2", 1280: "refiner", 2048: "sdxl"}  # what each published UNet attends to
_INSTEAD = "Serve a Stable Diffusion 1.5 or SDXL base instead"
_PICTURES = "starts from a picture, and Looksmith from a prompt alone"
_EMBEDDED_GUIDANCE = (
    "takes guidance as an embedding (time_cond_proj_dim), which rows of one batch don't share. "
    "Serve the base that it was distilled from, with its LCM LoRA under [distill]"
)


class _Foreign(NamedTuple):
    model: str
    why: str  # it can't be served, and what can
    pipelines: str  # matches class names in model_index.json
    tensors: str = "$^"  # matches names in a single file; this matches none


_TRANSFORMER = f"is a transformer; Looksmith batches UNets only. {_INSTEAD}"
_FOREIGN = (
    _Foreign("Flux", _TRANSFORMER, r"Flux|Chroma", r"(^|\.)double_blocks\.0\."),
    _Foreign("Stable Diffusion 3", _TRANSFORMER, r"StableDiffusion3", r"(^|\.)joint_blocks\.0\."),
    _Foreign("AuraFlow", _TRANSFORMER, r"AuraFlow", r"(^|\.)double_layers\.0\."),
    _Foreign("Sana", _TRANSFORMER, r"Sana", r"(^|\.)attention_y_norm\."),
    _Foreign("PixArt", _TRANSFORMER, r"PixArt", r"(^|\.)(t_block\.1|adaln_single)\."),
    _Foreign("Hunyuan-DiT", _TRANSFORMER, r"Hunyuan"),
    _Foreign("Stable Cascade", f"paints in two stages. {_INSTEAD}", r"Cascade|Wuerstchen", r"(^|\.)clip_txt_mapper\."),
    _Foreign("Kandinsky", f"paints after another model's picture embedding. {_INSTEAD}", r"Kandinsky|UnCLIP"),
    _Foreign("Kolors", f"reads prompts with ChatGLM; Looksmith with CLIP only. {_INSTEAD}", r"Kolors"),
    _Foreign("DeepFloyd IF", f"paints pixels; Looksmith latents only. {_INSTEAD}", r"^IF"),
    _Foreign("a latent consistency model", _EMBEDDED_GUIDANCE, r"LatentConsistency"),
    _Foreign("an inpainting model", f"{_PICTURES}. {_INSTEAD}", r"Inpaint"),
    _Foreign("an InstructPix2Pix model", f"{_PICTURES}. {_INSTEAD}", r"Pix2Pix"),
    _Foreign(
        "SDXL's refiner, or a base that was saved for pictures from pictures",
        f'{_PICTURES}. For a base, set "_class_name" in model_index.json to its text-to-image pipeline',
        r"Img2Img",
    ),
)
_CHANNELS = {5: "a depth model", 7: "an upscaling model", 8: "an InstructPix2Pix model", 9: "an inpainting model"}
_LORA = re.compile(r"lora_(unet|te\d?)_|\.lora_?(A|B|down|up)\.|\.lora_linear_layer\.")
_DIFFUSERS_UNET = re.compile(r"down_blocks\.\d+\.|conv_in\.weight$")


def foreign_index(index: Mapping[str, Any]) -> str | None:
    """Why a folder with this model_index.json can't be served at all; None: it may."""
    kind = str(index.get("_class_name"))
    if kind in {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}:
        return None
    for model in _FOREIGN:
        if re.search(model.pipelines, kind):
            return f"holds {kind}: {model.model} {model.why}"
    if "transformer" in index:
        return f"holds {kind}, which {_TRANSFORMER}"
    return f"holds {kind}; Looksmith paints with StableDiffusionPipeline and StableDiffusionXLPipeline. {_INSTEAD}"


def foreign_file(names: Collection[str]) -> str | None:
    """Why a single file with tensors of these names can't be a base; None: it may."""
    for model in _FOREIGN:
        if any(re.search(model.tensors, name) for name in names):
            return f"holds {model.model}, which {model.why}"
    if any(name.startswith("model.diffusion_model.") for name in names):
        return None
    if any(map(_LORA.search, names)):
        return "is a LoRA and no base. Publish it as an adapter, or name it under [distill]"
    if any(map(_DIFFUSERS_UNET.match, names)):
        return (
            "is a UNet alone, named as in diffusers. Put it into the unet folder of a diffusers folder of its base, as "
            "diffusion_pytorch_model.safetensors"
        )
    some = ", ".join(sorted(names)[:3])
    return f"is no checkpoint of Stable Diffusion: it has no model.diffusion_model.…, but {some}. {_INSTEAD}"


def encoders_of_file(names: Collection[str]) -> str | None:
    """The kind whose text encoders a single file has; None: no known one's."""
    kinds = (
        ("sdxl", "conditioner.embedders.1.model."),
        ("refiner", "conditioner.embedders.0.model."),
        ("sd2", "cond_stage_model.model."),
        ("sd15", "cond_stage_model.transformer."),
    )
    return next((kind for kind, prefix in kinds if any(name.startswith(prefix) for name in names)), None)


def another_kind(family: str, *, text_width: int, encoders: str | None) -> str | None:
    """Why weights are not of the recipe's family; None: they are, or are narrower than any that is known.

    Args:
        family: what the recipe says; of one that is not published nothing is known.
        text_width: what the UNet's cross attention reads.
        encoders: the kind that its text encoders look like; None: there is one, which may be anyone's.
    """
    if family not in _NAMES:
        return None
    reads = f"its UNet reads text of width {text_width}"
    found = _TEXT_WIDTHS.get(text_width) or encoders
    if found is None and family == "sdxl":
        return f"is not SDXL: it has no second text encoder, and {reads}. Name its own family"
    if found in {None, family}:
        return None
    what = f"is {_NAMES[str(found)]}, not {_NAMES[family]}: {reads}"
    if found == "refiner":
        return f"{what} from one text encoder, OpenCLIP's. It finishes what SDXL's base began; serve the base alone"
    second = ", and it has a second text encoder" if found == "sdxl" else ""
    return f'{what}{second}. Set family = "{found}", and publish LoRAs for that family'


def foreign_unet(
    config: Mapping[str, Any], names: Collection[str], *, channels: int, latent_channels: int
) -> str | None:
    """Why a UNet of a known kind of pipeline can't be served; None: it can.

    Args:
        config: of the UNet.
        names: its tensors'.
        channels: what its first convolution takes.
        latent_channels: what its VAE makes.
    """
    if config.get("time_cond_proj_dim") is not None or any(name.endswith(".cond_proj.weight") for name in names):
        return f"has a UNet that {_EMBEDDED_GUIDANCE}"
    if channels != latent_channels:
        what = _CHANNELS.get(channels, "made for other input than noise")
        return f"is {what}: its UNet takes {channels} channels, its VAE makes {latent_channels}. {_INSTEAD}"
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if config.get(key) is not None:
            return f"has a UNet that takes more than text and time ({key} = {config[key]}). {_INSTEAD}"
    return None


def foreign_conditions(config: Mapping[str, Any], *, pooled_width: int | None) -> str | None:
    """Why a UNet's conditions beside the prompt are not SDXL's, or not none; None: they are.

    Args:
        config: of the UNet.
        pooled_width: of the second text encoder's projection; None: there is no second one.
    """
    kind = config.get("addition_embed_type")
    if pooled_width is None:
        return f"has a UNet with addition_embed_type {kind}, which needs a second text encoder" if kind else None
    if kind != "text_time":
        return f"has a second text encoder, but a UNet that takes nothing pooled (addition_embed_type {kind})"
    takes, each = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
    if not isinstance(takes, int) or not isinstance(each, int):
        return "has a UNet whose config lacks projection_class_embeddings_input_dim or addition_time_embed_dim"
    if takes == pooled_width + 5 * each:
        return "is SDXL's refiner: its UNet asks for an aesthetic score. Serve the base alone"
    if takes != pooled_width + 6 * each:  # original size, crop and target size, two numbers each
        return (
            f"has a UNet that takes {takes} pooled values, but its second text encoder and six sizes make "
            f"{pooled_width + 6 * each}. Take both from one model"
        )
    return None
