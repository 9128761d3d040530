"""Prompts as embeddings, with what a brand's adapters change in the text encoder; remembers the latest.

Each prompt is encoded alone: what else is asked for at the same time then changes no bit of it. Knows nothing about
slots or rows.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from looksmith.lora import ModuleTable
from looksmith.lora.tables import table_path
from services.gpu_worker.engine.base import shared_copy

_REMEMBERED = 256


@dataclass(frozen=True)
class TextPart:
    """What one adapter changes in the text encoder."""

    digest: str
    weight: float
    halves: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False, compare=False)  # component.path -> A, B


class PromptEncoder:
    """A pipeline's own ``encode_prompt``, over a text encoder that shares the pipeline's weights."""

    def __init__(self, pipe: StableDiffusionPipeline, table: ModuleTable, *, remembered: int = _REMEMBERED) -> None:
        encoder = shared_copy(pipe.text_encoder)
        self._layers = _adapted_layers(encoder, table)
        self._pipe = copy.copy(pipe)  # not made anew: its scheduler, whichever that is now, would be judged again
        self._pipe.text_encoder = encoder
        self._device = pipe.device
        self._limit = remembered
        self._memory: OrderedDict[object, Tensor] = OrderedDict()

    def encode(self, prompt: str, negative: str, *, guided: bool, parts: Sequence[TextPart]) -> Tensor:
        """Embeddings [1, tokens, width]; guided: [2, tokens, width], those of ``negative`` first."""
        key = (prompt, negative if guided else "", guided, tuple(parts))
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        with_layers = {
            name: [(*part.halves[name], part.weight) for part in parts if name in part.halves] for name in self._layers
        }
        try:
            for name, layer in self._layers.items():
                layer.added = with_layers[name]
            embeds, negative_embeds = self._pipe.encode_prompt(
                prompt, self._device, 1, guided, negative if guided else None
            )
        finally:
            for layer in self._layers.values():
                layer.added = []
        rows: Tensor = embeds
        if guided:
            rows = embeds.new_empty((2, *embeds.shape[1:]))
            rows[0], rows[1] = negative_embeds[0], embeds[0]
        self._memory[key] = rows
        while len(self._memory) > self._limit:
            self._memory.popitem(last=False)
        return rows


class _TextLayer(nn.Module):
    """A linear layer of the text encoder, plus what the prompt at hand adds."""

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


def _adapted_layers(encoder: nn.Module, table: ModuleTable) -> dict[str, _TextLayer]:
    """Every linear layer of the encoder that the table names, made ready to be added to."""
    layers = {}
    for path, module in list(encoder.named_modules()):
        name = table_path("text_encoder", path)
        if isinstance(module, nn.Linear) and name in table.components.get("text_encoder", {}):
            layer = _TextLayer(module)
            parent, _, last = path.rpartition(".")
            setattr(encoder.get_submodule(parent), last, layer)
            layers[f"text_encoder.{name}"] = layer
    return layers
