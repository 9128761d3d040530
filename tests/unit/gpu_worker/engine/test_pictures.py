from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.single_files import reduced_pipeline
from services.gpu_worker.engine import pictures
from services.gpu_worker.engine.pictures import decoded, decoded_at_once


def test_as_many_pictures_share_a_batch_of_the_vae_as_memory_is_counted_for() -> None:
    at_once = {side: decoded_at_once(side, side) for side in (128, 512, 1024, 2048)}
    assert at_once == {128: 128, 512: 8, 1024: 2, 2048: 1}


@torch.inference_mode()
def test_what_does_not_fit_one_batch_of_the_vae_is_decoded_in_several_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = reduced_pipeline("sd15", seed=0, dtype=torch.float64)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = [picture for one in latents for picture in decoded(pipe, one[None])]
    batches, decode = [], pipe.vae.decode

    def counted(z: Tensor, **options: object) -> object:
        batches.append(len(z))
        return decode(z, **options)

    monkeypatch.setattr(pipe.vae, "decode", counted)
    monkeypatch.setattr(pictures, "_AT_ONCE", 2 * 64 * 64)
    assert decoded(pipe, latents) == alone
    assert batches == [2, 1]
    assert len({picture.rgb for picture in alone}) == 3
