"""Random adapters are what a benchmark of swaps needs: as many as wanted, truly different, in either half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.lora_files import random_lora_file
from looksmith.lora import Dialect, packaged_table, read_modules, read_weights

TABLE = packaged_table("studio")


def test_two_seeds_make_different_weights_and_one_the_same_bytes(tmp_path: Path) -> None:
    files = [
        random_lora_file(TABLE, rank=4, seed=seed, dialect=Dialect.DIFFUSERS, file=tmp_path / f"{i}.safetensors")
        for i, seed in enumerate((1, 1, 2))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    one, other = (read_weights(file, read_modules(file, TABLE)) for file in files[1:])
    for a, b in zip(one, other, strict=True):
        assert (a.down != b.down).mean() > 0.9
        assert (a.up != b.up).mean() > 0.9
        assert np.abs(a.up).max() > 0


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_a_file_has_the_wanted_type(tmp_path: Path, dtype: torch.dtype, bits: str) -> None:
    file = tmp_path / "lora.safetensors"
    random_lora_file(TABLE, rank=4, seed=1, dialect=Dialect.KOHYA, file=file, dtype=dtype)
    head = file.read_bytes()[:20_000]
    assert b'"dtype":"%s","shape":[4,96]' % bits.encode() in head
