"""What the bank engine asks its UNet, one forward pass after the other, and a place to step in before each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from services.gpu_worker.engine.bank_engine import BankEngine

PADDING = ""
Pass = list[str]  # the prompt of each row, of a guided picture's two alike; PADDING for a row that is none


@contextmanager
def passes_of(engine: BankEngine, before: Callable[[Pass], None] = lambda _: None) -> Iterator[list[Pass]]:
    """Passes in the order in which they begin. ``before`` may wait or raise, on the engine's thread."""
    lane = engine._bank_lane
    seen: list[Pass] = []

    def prompt_of(row: Tensor) -> str:
        for key, told in lane._prompts._memory.items():
            if any(torch.equal(row, each) for each in told.embeds):
                assert isinstance(key, tuple)
                return str(key[0])
        assert not row.any(), "a row of a prompt that was never encoded"
        return PADDING

    def begins(_unet: nn.Module, _arguments: object, options: Mapping[str, Any]) -> None:
        rows = [prompt_of(row) for row in options["encoder_hidden_states"]]
        seen.append(rows)
        before(rows)

    unet = lane._batcher._unet
    assert isinstance(unet, nn.Module)
    hook = unet.register_forward_pre_hook(begins, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()
