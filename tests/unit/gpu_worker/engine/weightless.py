"""Real bases at full width for hardly any memory: every weight is one number, seen in all its places.

What an adapter adds can be asked of any layer, and so can what it is added to. They paint nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from benchmarks import bases
from looksmith.lora.tables import table_path
from models.studio import tokenizer
from models.studio.train_base import new_text_encoder, new_unet

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
WEIGHT = 2.0**-10
Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


@cache
def pipeline(family: str) -> Pipeline:
    """A base's pipeline without VAE and tokenizers. There is one a family: adapters must be taken off again."""
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    models = {component: _model(family, component) for component in ("unet", "text_encoder")}
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=None,
            tokenizer=None,
            tokenizer_2=None,
            text_encoder_2=_model(family, "text_encoder_2"),
            scheduler=scheduler,
            **models,
        )
    return StableDiffusionPipeline(
        vae=None,
        tokenizer=None,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **models,
    )


def _model(family: str, component: str) -> nn.Module:
    if family == "studio":
        with torch.device("meta"):
            model: nn.Module = new_unet() if component == "unet" else new_text_encoder(tokenizer.build())
    else:
        model = bases.new_model(family, component, device="meta", dtype=torch.float32)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            number = torch.tensor(WEIGHT).expand(parameter.shape)
            setattr(module, name, nn.Parameter(number, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return model.eval()


@contextmanager
def for_a_while(family: str) -> Iterator[Pipeline]:
    """The family's pipeline; what is put on its models is taken off at the end, whoever put it there and how far."""
    pipe = pipeline(family)
    try:
        yield pipe
    finally:
        for model in models(pipe).values():
            for path, layer in list(model.named_modules()):
                if isinstance(layer, BaseTunerLayer):
                    parent, _, name = path.rpartition(".")
                    setattr(model.get_submodule(parent), name, layer.get_base_layer())
            for mark in ("peft_config", "_hf_peft_config_loaded"):
                vars(model).pop(mark, None)


def models(pipe: Pipeline) -> Mapping[str, nn.Module]:
    return {component: getattr(pipe, component) for component in COMPONENTS if hasattr(pipe, component)}


def adapted(pipe: Pipeline, adapter: str) -> Mapping[str, nn.Module]:
    """The layers that have an adapter, by component and by the path that module tables use."""
    layers: dict[str, nn.Module] = {}
    for component, model in models(pipe).items():
        for path, layer in model.named_modules():
            if adapter in getattr(layer, "lora_A", ()):
                layers[f"{component}.{table_path(component, path)}"] = layer
    return layers


def base_alone(layer: nn.Module, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an adapted layer gives without adapters, each of its outputs alike: [1, n]."""
    assert isinstance(layer, BaseTunerLayer)
    bias = layer.get_base_layer().bias is not None
    return np.asarray(WEIGHT * (inputs.sum(axis=0, keepdims=True) + bias))


@torch.inference_mode()
def asked(layer: nn.Module, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """A layer's outputs [out, n] for inputs [in x height x width, n].

    A convolution sees its whole kernel at one place only, of an image large enough to have one.
    """
    base = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    rows = torch.from_numpy(inputs.T.astype(np.float32))
    if isinstance(base, nn.Linear):
        return layer(rows).double().numpy().T  # type: ignore[no-any-return]  # of numpy
    assert isinstance(base, nn.Conv2d)
    height, width = base.kernel_size
    around = 2 if height > 1 else 0
    images = torch.zeros(len(rows), base.in_channels, height + around, width + around)
    middle = slice(around // 2, around // 2 + height), slice(around // 2, around // 2 + width)
    images[:, :, *middle] = rows.view(-1, base.in_channels, height, width)
    at = (around // 2 + int(base.padding[0])) // base.stride[0]
    outputs: Tensor = layer(images)
    return outputs[:, :, at, at].double().numpy().T
