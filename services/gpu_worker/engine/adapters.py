"""A LoRA file in any dialect as the tensors and the LoraConfig that diffusers takes. Knows nothing about a device.

Every dialect goes this one way: looksmith.lora says which tensors adapt which layer, at what rank and alpha, and
diffusers is handed its own names with a complete config. Left to read files itself, it guesses alpha for a packed peft
folder and looks for suffixes and prefixes in names; here each module is spelled out, and counted once it is in place.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn

from looksmith.lora import LoraModule, ModuleTable, read_modules
from services.gpu_worker.engine.pipelines import Pipeline

# A's and B's names, as LoraTensors has them, and as the loaders take them. Under the names that peft gives,
# load_lora_into_text_encoder fails on an adapter that leaves the attention alone.
_IN_UNET = {"lora_A": "lora_A", "lora_B": "lora_B"}
_IN_TEXT_ENCODER = {"lora_A": "lora_linear_layer.down", "lora_B": "lora_linear_layer.up"}


@dataclass(frozen=True)
class LoraTensors:
    """A file's modules, and A [rank, in, ...] and B [out, rank, ...] by diffusers' names, in the file's own dtype."""

    modules: tuple[LoraModule, ...]
    tensors: Mapping[str, Tensor]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_lora(path: Path, table: ModuleTable) -> LoraTensors:
    """Reads a file whose digest has been checked.

    Raises:
        LoraError: it does not fit the base that ``table`` describes.
    """
    modules = read_modules(path, table)
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for module in modules:
            tensors[f"{module.name}.lora_A.weight"] = file.get_tensor(module.down)
            tensors[f"{module.name}.lora_B.weight"] = file.get_tensor(module.up)
    return LoraTensors(modules, tensors)


def add_lora(pipe: Pipeline, name: str, lora: LoraTensors) -> None:
    """Adds an adapter to the pipeline's models under ``name``.

    Raises:
        RuntimeError: not every module took it; none keeps it then.
    """
    for component in dict.fromkeys(module.component for module in lora.modules):
        modules = tuple(module for module in lora.modules if module.component == component)
        model: nn.Module = getattr(pipe, component)
        paths = {module.path: path_in(model, module.path) for module in modules}
        tensors = {
            f"{component}.{paths[module.path]}.{half}.weight": lora.tensors[f"{module.name}.{ours}.weight"]
            for module in modules
            for ours, half in (_IN_UNET if component == "unet" else _IN_TEXT_ENCODER).items()
        }
        config = {f"{component}.{key}": value for key, value in _lora_config(modules, paths).items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are the point
            _load(pipe, component, tensors, name=name, config=config)
        halves = _halves_of(model, name)
        if len(halves) != 2 * len(modules):
            remove_lora(pipe, name)
            raise RuntimeError(f"{len(halves) // 2} of {len(modules)} modules of {component} took adapter {name}")
        if pipe.dtype is torch.float64:  # peft would round to float32
            for half in halves:
                half.double()


def _load(
    pipe: Pipeline, component: str, tensors: Mapping[str, Tensor], *, name: str, config: Mapping[str, Any]
) -> None:
    model = getattr(pipe, component)
    options = {
        "network_alphas": None,
        "adapter_name": name,
        "metadata": config,
        "low_cpu_mem_usage": True,
        "_pipeline": pipe,
    }
    if component == "unet":
        pipe.load_lora_into_unet(tensors, unet=model, **options)
    else:
        pipe.load_lora_into_text_encoder(tensors, text_encoder=model, prefix=component, **options)


def remove_lora(pipe: Pipeline, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")  # it is bound no more
        pipe.delete_adapters(name)


def path_in(model: nn.Module, path: str) -> str:
    """A table's path as the loaded model has it: from version 5 on, transformers' CLIP has no ``text_model``."""
    return path if hasattr(model, "text_model") else path.removeprefix("text_model.")


def _lora_config(modules: tuple[LoraModule, ...], paths: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of LoraConfig: the commonest rank and alpha, and patterns for modules with others.

    Patterns only for these, since peft tries every pattern on every module.
    """
    (rank, _), *_ = Counter(module.rank for module in modules).most_common(1)
    (alpha, _), *_ = Counter(module.alpha for module in modules).most_common(1)
    pattern = {path: f"^{re.escape(inside)}" for path, inside in paths.items()}  # peft matches it as a regex
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {pattern[m.path]: m.rank for m in modules if m.rank != rank},
        "alpha_pattern": {pattern[m.path]: m.alpha for m in modules if m.alpha != alpha},
        "target_modules": sorted(paths.values()),
    }


def _halves_of(model: nn.Module, name: str) -> list[nn.Module]:
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    dicts: list[nn.ModuleDict] = [getattr(layer, half) for layer in layers for half in ("lora_A", "lora_B")]
    return [halves[name] for halves in dicts if name in halves]
