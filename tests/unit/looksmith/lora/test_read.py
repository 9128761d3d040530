"""Weights come back as they were written."""

from pathlib import Path

import numpy as np
import pytest

from looksmith.lora.errors import Code, LoraError
from looksmith.lora.read import read_modules, read_weights
from looksmith.lora.validate import inspect
from tests.unit.looksmith.lora.lora_files import (
    CONV,
    TO_K,
    TO_Q,
    diffusers,
    halves,
    kohya,
    safetensors,
    tensor,
    tiny_table,
)

TABLE = tiny_table()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_weights_come_as_float32_whatever_the_file_holds(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "lora").write_bytes(safetensors(diffusers(TABLE, {f"unet.{CONV}": 3, f"unet.{TO_Q}": 2}, dtype)))
    read = list(read_weights(tmp_path / "lora", read_modules(tmp_path / "lora", TABLE)))
    assert [one.module.path for one in read] == [CONV, TO_Q]
    for seed, one in enumerate(read):
        down, up = halves(TABLE, "unet", one.module.path, one.module.rank, seed)
        np.testing.assert_array_equal(one.down, down)
        np.testing.assert_array_equal(one.up, up)
        assert one.down.dtype == one.up.dtype == np.float32


def test_arrays_outlive_the_file(tmp_path: Path) -> None:
    (tmp_path / "lora").write_bytes(safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}, "F32")))
    (read,) = read_weights(tmp_path / "lora", read_modules(tmp_path / "lora", TABLE))
    (tmp_path / "lora").write_bytes(b"")
    down = read.down
    down += 1
    assert down.shape == (2, 8)


@pytest.mark.parametrize("alpha", [tensor(3, "I64"), tensor(3.0, "BF16"), tensor([3.0], "F64")])
def test_modules_are_those_of_the_inspection(tmp_path: Path, alpha: object) -> None:
    names = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": ("unet", TO_K)}
    (tmp_path / "lora").write_bytes(safetensors(kohya(TABLE, names, alpha=alpha)))  # type: ignore[arg-type]  # parametrized
    modules = read_modules(tmp_path / "lora", TABLE)
    assert modules == inspect(tmp_path / "lora", TABLE).modules
    assert [module.alpha for module in modules] == [3.0]


def test_a_file_for_another_base_is_refused(tmp_path: Path) -> None:
    other = tiny_table(second_encoder=True)
    name = "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"
    (tmp_path / "lora").write_bytes(safetensors(diffusers(other, {name: 2})))
    with pytest.raises(LoraError) as caught:
        read_modules(tmp_path / "lora", TABLE)
    assert caught.value.code is Code.E_BASE
