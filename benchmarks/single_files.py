"""Small pipelines of real topology, and pipelines in the one-file layout that checkpoints are traded in.

Written apart from what reads such files, so that tests can hold one against the other. Knows nothing about LoRA.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from looksmith.lora.sai import sai_names
from services.gpu_worker.engine.clip_tokenizer import MAX_LENGTH, PADS, clip_tokenizer
from services.gpu_worker.engine.families import SKELETONS

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

# What a reduced pipeline has other than the published configs. Text widths keep the ratio 3 : 5, which add up to what
# SDXL's UNet attends to, and no two widths are alike, UNet included: a tensor in another's place does not fit.
_TEXT = {
    "text_encoder": {"hidden_size": 18, "intermediate_size": 72, "num_attention_heads": 3, "num_hidden_layers": 4},
    "text_encoder_2": {"hidden_size": 30, "intermediate_size": 120, "num_attention_heads": 5, "num_hidden_layers": 5},
}
_VAE = {"block_out_channels": [8, 16, 24, 24], "norm_num_groups": 8}
_REDUCED: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": {
            "block_out_channels": [16, 32, 64, 64],
            "cross_attention_dim": 18,
            "norm_num_groups": 8,
            "sample_size": 8,
        },
        "vae": {**_VAE, "sample_size": 64},
        "text_encoder": {**_TEXT["text_encoder"], "projection_dim": 18},
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [16, 32, 64],
            "attention_head_dim": [1, 2, 4],
            "transformer_layers_per_block": [1, 1, 2],
            "cross_attention_dim": 48,
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 30 + 6 * 16,
            "norm_num_groups": 8,
            "sample_size": 16,
        },
        "vae": {**_VAE, "sample_size": 128},
        "text_encoder": {**_TEXT["text_encoder"], "projection_dim": 18},
        "text_encoder_2": {**_TEXT["text_encoder_2"], "projection_dim": 30},
    },
}

_IN_VAE = (  # of a layer's path in diffusers, and in the original
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
    (r"downsamplers\.0", "downsample"),
    (r"upsamplers\.0", "upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"down_blocks", "down"),
    (r"resnets", "block"),
)
_IN_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def reduced_pipeline(family: str, *, seed: int, dtype: torch.dtype) -> Pipeline:
    """A narrow pipeline of sd15 or sdxl, its pictures (64 or 128 pixels) as random as its weights.

    The seed's weights are the same in every dtype, but for their rounding.
    """
    parts: dict[str, Any] = {"tokenizer": clip_tokenizer(pad_token=PADS["tokenizer"])}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component, changes in _REDUCED[family].items():
            parts[component] = _random_model(family, component, changes, dtype)
    scheduler = json.loads((SKELETONS[family] / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    parts["scheduler"] = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    if family == "sdxl":
        second = clip_tokenizer(pad_token=PADS["tokenizer_2"])
        return StableDiffusionXLPipeline(**parts, tokenizer_2=second, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _random_model(family: str, component: str, changes: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    config = json.loads((SKELETONS[family] / component / "config.json").read_text("utf-8")) | changes
    config.pop("_diffusers_version", None)  # models that old are adjusted to larger pictures
    model: nn.Module
    if component.startswith("text_encoder"):
        model = getattr(transformers, config["architectures"][0])(transformers.CLIPTextConfig.from_dict(config))
    else:
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    with torch.no_grad():
        if component == "vae":
            model.get_submodule("decoder.conv_out").get_parameter("weight").mul_(6)  # an untrained decoder paints grey
        for parameter in model.parameters():
            if parameter.ndim == 1:  # untrained norms and biases are ones and zeros, all alike
                parameter.add_(torch.randn(parameter.shape) * 0.02)
            parameter.data = parameter.to(dtype)  # diffusers' own .to() warns
    return model.eval().requires_grad_(requires_grad=False)


def write_single_file(pipe: Pipeline, path: Path) -> None:
    """Writes the pipeline as one file in the layout of the code that its family was trained with."""
    tensors = single_file_tensors(pipe)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def single_file_tensors(pipe: Pipeline) -> dict[str, Tensor]:
    """The tensors of such a file by name, those included that published ones have beside the weights."""
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in _unet(pipe.unet.state_dict()).items()}
    tensors |= {f"first_stage_model.{name}": tensor for name, tensor in _vae(pipe.vae.state_dict()).items()}
    first = "conditioner.embedders.0." if isinstance(pipe, StableDiffusionXLPipeline) else "cond_stage_model."
    for name, tensor in pipe.text_encoder.state_dict().items():  # in memory without text_model.
        tensors[f"{first}transformer.text_model.{name}"] = tensor
    positions = torch.arange(MAX_LENGTH).expand(1, -1)
    tensors[f"{first}transformer.text_model.embeddings.position_ids"] = positions
    if isinstance(pipe, StableDiffusionXLPipeline):
        second = _open_clip(pipe.text_encoder_2.state_dict())
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second.items()}
    else:
        tensors["alphas_cumprod"] = pipe.scheduler.alphas_cumprod
    return tensors


def _unet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    paths = {name.rpartition(".")[0] for name in weights}
    names = sai_names(paths) | {"conv_norm_out": "out.0"}

    def original(path: str) -> str:
        name = names[path]
        if ".resnets." not in path:  # a transformer's norms keep their names
            return name
        return name.replace(".norm1", ".in_layers.0").replace(".norm2", ".out_layers.0")

    return {_renamed(name, original): tensor for name, tensor in weights.items()}


def _vae(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ups = {match[1] for name in weights if (match := re.match(r"decoder\.up_blocks\.(\d+)", name))}

    def original(path: str) -> str:
        path = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", path)
        path = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{len(ups) - 1 - int(m[1])}", path)  # counts from the picture
        for pattern, name in _IN_VAE:
            path = re.sub(pattern, name, path)
        return path

    made = {_renamed(name, original): tensor for name, tensor in weights.items()}
    # Its attention is written as convolutions of one pixel
    return {
        name: tensor[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name) else tensor
        for name, tensor in made.items()
    }


def _open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = weights[f"text_model.final_layer_norm.{kind}"]
    for layer in itertools.count():
        before, after = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        if f"{before}.layer_norm1.weight" not in weights:
            return made
        for kind in ("weight", "bias"):
            merged = torch.cat([weights[f"{before}.self_attn.{one}_proj.{kind}"] for one in "qkv"])
            made[f"{after}.attn.in_proj_{kind}"] = merged
            for old, new in _IN_OPEN_CLIP.items():
                made[f"{after}.{new}.{kind}"] = weights[f"{before}.{old}.{kind}"]
    raise AssertionError("unreachable")


def _renamed(name: str, rename: Callable[[str], str]) -> str:
    path, _, kind = name.rpartition(".")
    return f"{rename(path)}.{kind}"
