"""A base's weights, from headers to models: which files hold them, under which names, and that none is missing.

Strict where diffusers is lenient: it draws missing weights at random. What a model is called and whether it can be
served is base_kinds.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights  # type: ignore[import-untyped]  # of accelerate
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor, nn

from looksmith.lora import LoraError
from looksmith.lora.header import TensorInfo, read_header
from services.gpu_worker.engine.base_kinds import PREFIXES

#: The class that each component must have.
CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
    "text_encoder_2": transformers.CLIPTextModelWithProjection,
}
_PICKLES = {".ckpt", ".bin", ".pt", ".pth", ".pkl"}
_FLOATS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
# What text encoders carry along, unused here: positions are counted, the rest is for finding pictures by text.
_IDLE = re.compile(r"(.*\.)?(position_ids|logit_scale|text_projection(\.weight)?)")
# What the attention of VAEs was called until diffusers 0.13, as in Stable Diffusion 1.5's own folder, and is now.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(?<=attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_SHOWN = 3
#: What libraries raise for a config whose values make no model.
BAD_CONFIG = (
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


class PipelineRefused(ValueError):
    """A base can't be opened; the message says what is wrong with which file, why it matters, and what to do."""


@dataclass(frozen=True)
class Stored:
    """Tensors on disk, with the file that each lies in."""

    place: Path  # what messages name
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, Path]

    def under(self, prefix: str) -> Stored:
        return Stored(self.place, {n: t for n, t in self.tensors.items() if n.startswith(prefix)}, self.files)

    def width(self, ending: str) -> int | None:
        """The second dimension, inputs or channels, of the first weight whose name ends so; None: there is none."""
        found = (t.shape for n, t in self.tensors.items() if n.endswith(ending))
        return next((shape[1] for shape in found if len(shape) > 1), None)

    def outlines(self) -> dict[str, Tensor]:
        """Tensors of the same names and shapes without memory; of integers where the stored ones are no floats."""
        return {
            name: torch.empty(info.shape, dtype=torch.float32 if info.dtype in _FLOATS else torch.int8, device="meta")
            for name, info in self.tensors.items()
        }

    def read(self) -> dict[str, Tensor]:
        """The tensors themselves, mapped and not yet read."""
        tensors: dict[str, Tensor] = {}
        for file in sorted({self.files[name] for name in self.tensors}):
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in self.tensors if self.files[name] == file}
        return tensors


def stored_in(*files: Path, place: Path) -> Stored:
    """Reads headers only.

    Raises:
        PipelineRefused: a file is broken or no safetensors file, or two hold a tensor of the same name.
    """
    tensors: dict[str, TensorInfo] = {}
    where: dict[str, Path] = {}
    for file in files:
        if file.suffix in _PICKLES:
            raise PipelineRefused(pickled(file))
        if file.suffix != ".safetensors":
            raise PipelineRefused(f"{file} is no safetensors file, the only kind that is read")
        try:
            header = read_header(file)
        except LoraError as error:
            raise PipelineRefused(f"{file} can't be read: {error.problems[0].what}. Fetch or save it again") from None
        except OSError as error:
            raise PipelineRefused(f"{file} can't be read: {error.strerror}") from None
        if twice := sorted(tensors.keys() & header.tensors.keys()):
            raise PipelineRefused(
                f"{file} and {where[twice[0]]} both hold {twice[0]}. Remove the one that is left over from another save"
            )
        tensors |= header.tensors
        where |= dict.fromkeys(header.tensors, file)
    return Stored(place, tensors, where)


def stored_model(folder: Path) -> Stored:
    """A component's folder: whole or in shards, the fp16 variant only where there is no other.

    Raises:
        PipelineRefused: as stored_in, or there are no weights.
    """
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    for variant in ("", ".fp16"):
        for files in (f"{stem}{variant}.safetensors", f"{stem}{variant}-*-of-*.safetensors"):
            if found := sorted(folder.glob(files)):
                return stored_in(*found, place=folder)
    if pickles := sorted(file for file in folder.glob("*") if file.suffix in _PICKLES):
        raise PipelineRefused(pickled(pickles[0]))
    raise PipelineRefused(f"{folder} holds no {stem}.safetensors. Fetch the whole diffusers folder again")


def pickled(file: Path) -> str:
    return (
        f"{file} is a pickle, which can run code when it is opened; only safetensors files are read. Fetch its "
        "safetensors version, or convert it where you trust its source: torch.load with weights_only, then "
        "safetensors.torch.save_file"
    )


def empty_model(component: str, config: dict[str, Any], *, place: Path) -> nn.Module:
    """The model that a config describes; its weights have shapes but no memory.

    Raises:
        PipelineRefused: the config describes another class, or makes no model.
    """
    kind = CLASSES[component]
    is_text = component.startswith("text_encoder")
    said = config.get("architectures") if is_text else [config.get("_class_name")]
    if said not in ([kind.__name__], None):
        raise PipelineRefused(f"{place} describes {said}; Looksmith paints with {kind.__name__}")
    try:
        with init_empty_weights():
            model: nn.Module = (
                kind(transformers.CLIPTextConfig.from_dict(config)) if is_text else kind.from_config(config)
            )
    except BAD_CONFIG as error:
        raise PipelineRefused(f"{place} describes no {kind.__name__}: {error}") from None
    return model


def check_fit(component: str, model: nn.Module, stored: Stored, *, is_original: bool) -> None:
    """Whether the stored tensors are exactly the model's.

    Raises:
        PipelineRefused: one is missing, left over, of another shape, or of integers; it is named.
    """
    outlines = stored.outlines()
    found = _as_in_model(component, model, outlines, stored.place, is_original=is_original)
    wanted = model.state_dict()
    where = f"{stored.place}: {component}"
    if missing := wanted.keys() - found.keys():
        raise PipelineRefused(
            f"{where} lacks {_some(missing)}, and weights that are not there can't be made up. "
            "Fetch the file again, or give the config that it was trained with"
        )
    spare = found.keys() - wanted.keys()
    if is_original and component == "unet":  # diffusers converts the names that it knows
        known = set(map(id, found.values()))
        spare |= {name for name, outline in outlines.items() if id(outline) not in known}
    if spare:
        raise PipelineRefused(
            f"{where} has no place for {_some(spare)}, so that part of the weights would not act. "
            "Give the config that they were trained with"
        )
    for name in wanted:
        if found[name].shape != wanted[name].shape:
            raise PipelineRefused(
                f"{where}: {name} has the shape {[*found[name].shape]}, not {[*wanted[name].shape]} as configured. "
                "Give the config that it was trained with"
            )
        if not found[name].is_floating_point():
            raise PipelineRefused(
                f"{where}: {name} is quantised to integers, which need a scale to mean anything. "
                "Fetch the weights in 16 or 32 bits"
            )


def fill(component: str, model: nn.Module, stored: Stored, *, is_original: bool, dtype: torch.dtype) -> None:
    """Gives a model that was checked its weights: copies, so that a file can be replaced while it is served."""
    found = _as_in_model(component, model, stored.read(), stored.place, is_original=is_original)
    weights = {name: found[name].contiguous().to(dtype, copy=True) for name in model.state_dict()}
    model.load_state_dict(weights, strict=True, assign=True)
    model.eval().requires_grad_(requires_grad=False)


def _as_in_model(
    component: str, model: nn.Module, tensors: dict[str, Tensor], place: Path, *, is_original: bool
) -> dict[str, Tensor]:
    """The tensors under the names, and in the shapes, that they have in the model's memory."""
    if is_original:
        tensors = _converted(component, model, tensors, place)
    if component == "vae":
        return {_OLD_ATTENTION.sub(lambda old: _ATTENTION[old[0]], name): t for name, t in tensors.items()}
    if component.startswith("text_encoder"):
        # In memory, transformers 5 has text_model. in one of the two classes; files may have it for both
        wrapper = "text_model." if hasattr(model, "text_model") else ""
        wanted = model.state_dict()
        named = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        named = {name if name in wanted else wrapper + name: tensor for name, tensor in named.items()}
        return {name: t for name, t in named.items() if name in wanted or not _IDLE.fullmatch(name)}
    return tensors


def _converted(component: str, model: Any, tensors: dict[str, Tensor], place: Path) -> dict[str, Tensor]:  # noqa: ANN401  # has a config of its class's kind
    """The original layout's tensors under the names that diffusers and transformers save."""
    found: dict[str, Tensor | None]
    try:
        match component:
            case "unet":
                found = single_file_utils.convert_ldm_unet_checkpoint(tensors, config=model.config)
            case "vae":
                found = single_file_utils.convert_ldm_vae_checkpoint(tensors, config=model.config)
            case "text_encoder_2":
                prefix = PREFIXES["sdxl"][component]
                found = single_file_utils.convert_open_clip_checkpoint(model, tensors, prefix=prefix)
            case _:
                found = {name.partition(".transformer.")[2]: tensor for name, tensor in tensors.items()}
    except KeyError as error:  # some names are looked up, others got or left as None
        raise PipelineRefused(f"{place}: {component} lacks {error.args[0]}. Fetch the file again") from None
    except (IndexError, RuntimeError):
        raise PipelineRefused(
            f"{place}: {component} has a shape that no {component} has. Fetch the file again"
        ) from None
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _some(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
