"""Prompts as embeddings, with what a brand's adapters change in the text encoders; remembers the latest.

Each prompt is encoded alone: what else is asked for at the same time then changes no bit of it. Knows nothing about
slots or rows.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from looksmith.lora import ModuleTable
from looksmith.lora.tables import table_path
from services.gpu_worker.engine.base import models_of, shared_copy
from services.gpu_worker.engine.conditioning import Conditioning, encoded
from services.gpu_worker.engine.pipelines import Pipeline

_REMEMBERED = 256


@dataclass(frozen=True)
class TextPart:
    """What one adapter changes in the text encoders."""

    digest: str
    weight: float
    halves: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False)  # component.path -> A, B


class PromptEncoder:
    """A pipeline's own ``encode_prompt``, over text encoders that share the pipeline's weights."""

    def __init__(self, pipe: Pipeline, table: ModuleTable, *, remembered: int = _REMEMBERED) -> None:
        self._pipe = copy.copy(pipe)  # not made anew: its scheduler, whichever that is now, would be judged again
        self._layers: dict[str, _TextLayer] = {}
        for component, model in models_of(pipe).items():
            if component.startswith("text_encoder"):
                encoder = shared_copy(model)
                self._layers |= _adapted_layers(component, encoder, table)
                setattr(self._pipe, component, encoder)
        self._limit = remembered
        self._memory: OrderedDict[object, Conditioning] = OrderedDict()

    def encode(
        self, prompt: str, negative: str, *, guided: bool, clip_skip: int, parts: Sequence[TextPart]
    ) -> Conditioning:
        """What the UNet is told of one prompt; guided: of two, that of ``negative`` first."""
        # Of the adapters what names them, and not their halves: a prompt that is remembered must not keep those.
        acting = tuple((part.digest, part.weight) for part in parts)
        key = (prompt, negative if guided else "", guided, clip_skip, acting)
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        with_layers = {
            name: [(*part.halves[name], part.weight) for part in parts if name in part.halves] for name in self._layers
        }
        try:
            for name, layer in self._layers.items():
                layer.added = with_layers[name]
            made = encoded(self._pipe, prompt, negative, guided=guided, clip_skip=clip_skip)
        finally:
            for layer in self._layers.values():
                layer.added = []
        self._memory[key] = made
        while len(self._memory) > self._limit:
            self._memory.popitem(last=False)
        return made


class _TextLayer(nn.Module):
    """A linear layer of a text encoder, plus what the prompt at hand adds."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.added: list[tuple[Tensor, Tensor, float]] = []  # A, B, weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for down, up, weight in self.added:
            down, up = (half.to(x.device, non_blocking=True) for half in (down, up))  # noqa: PLW2901  # same, over there
            y = y + nn.functional.linear(nn.functional.linear(x, down), up) * weight
        return y


def _adapted_layers(component: str, encoder: nn.Module, table: ModuleTable) -> dict[str, _TextLayer]:
    """Every linear layer of the encoder that the table names, made ready to be added to."""
    layers = {}
    for path, module in list(encoder.named_modules()):
        name = table_path(component, path)
        if isinstance(module, nn.Linear) and name in table.components[component]:
            layer = _TextLayer(module)
            parent, _, last = path.rpartition(".")
            setattr(encoder.get_submodule(parent), last, layer)
            layers[f"{component}.{name}"] = layer
    return layers
