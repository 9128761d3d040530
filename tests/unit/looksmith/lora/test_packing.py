"""A peft folder becomes one file, always the same."""

import json
from pathlib import Path

import pytest

from looksmith.lora.dialects import PEFT_CONFIG_KEY, Dialect
from looksmith.lora.errors import Code, LoraError
from looksmith.lora.header import read_header
from looksmith.lora.packing import pack
from looksmith.lora.validate import inspect
from tests.unit.looksmith.lora.lora_files import CONV, TO_K, TO_Q, framed, peft, peft_folder, tiny_table

TABLE = tiny_table()
TENSORS = peft(TABLE, "unet", {TO_Q: 2, TO_K: 4, CONV: 2})
CONFIG: dict[str, object] = {
    "lora_alpha": 8,
    "rank_pattern": {"attn2.to_k": 4},
    "alpha_pattern": {"to_q": 1, "conv1": 2},
}


def refused(folder: Path) -> Code:
    with pytest.raises(LoraError) as caught:
        pack(folder)
    return caught.value.code


def test_the_packed_file_says_what_the_folder_said(tmp_path: Path) -> None:
    packed = pack(peft_folder(tmp_path / "folder", TENSORS, CONFIG))
    packed.write(tmp_path / "packed")
    assert (tmp_path / "packed").stat().st_size == packed.file_bytes
    inspection = inspect(tmp_path / "packed", TABLE)
    assert inspection.dialect is Dialect.PEFT
    assert inspection.rank_map == {f"unet.{TO_Q}": 2, f"unet.{TO_K}": 4, f"unet.{CONV}": 2}
    assert inspection.alpha_map == {f"unet.{TO_Q}": 1, f"unet.{TO_K}": 8, f"unet.{CONV}": 2}


def test_tensors_keep_their_bytes(tmp_path: Path) -> None:
    pack(peft_folder(tmp_path / "folder", TENSORS, CONFIG)).write(tmp_path / "packed")
    header = read_header(tmp_path / "packed")
    file = (tmp_path / "packed").read_bytes()
    assert {name: file[one.start : one.end] for name, one in header.tensors.items()} == {
        name: one.raw for name, one in TENSORS.items()
    }


def test_data_begin_at_a_multiple_of_eight(tmp_path: Path) -> None:
    for alpha in (1, 10, 100):
        packed = pack(peft_folder(tmp_path / str(alpha), TENSORS, CONFIG | {"lora_alpha": alpha}))
        assert len(packed.head) % 8 == 0


def test_the_same_adapter_packs_to_the_same_bytes_wherever_it_was_trained(tmp_path: Path) -> None:
    here = peft_folder(tmp_path / "here", TENSORS, CONFIG | {"target_modules": ["to_q", "to_k"]})
    there = peft_folder(
        tmp_path / "there",
        TENSORS,
        {"target_modules": ["to_k", "to_q"], "base_model_name_or_path": "/home/me/base", "task_type": None, **CONFIG},
    )
    config = json.loads((there / "adapter_config.json").read_text())
    (there / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items())), indent=4))
    assert b"".join(pack(here).chunks()) == b"".join(pack(there).chunks())


def test_nothing_but_the_meaning_of_the_weights_is_kept(tmp_path: Path) -> None:
    pack(peft_folder(tmp_path / "folder", TENSORS, CONFIG | {"revision": "secret"})).write(tmp_path / "packed")
    metadata = read_header(tmp_path / "packed").metadata
    assert metadata.keys() == {"format", PEFT_CONFIG_KEY}
    assert "secret" not in str(metadata)


def test_a_large_file_comes_in_small_chunks(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "folder", {}, {})
    size = 5 << 20
    header = {"base_model.model.a.lora_A.weight": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}}
    (folder / "adapter_model.safetensors").write_bytes(framed(header, bytes(size)))
    chunks = [len(chunk) for chunk in pack(folder).chunks()]
    assert max(chunks) <= 1 << 20
    assert sum(chunks) == pack(folder).file_bytes


def test_refuses_a_folder_without_its_files(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "folder", TENSORS, CONFIG)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert refused(folder) is Code.E_FORMAT
    (folder / "adapter_config.json").unlink()
    assert refused(folder) is Code.E_FORMAT


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[]", Code.E_FORMAT),
        ("{", Code.E_JSON),
        ('{"r": 2, "r": 4, "lora_alpha": 2}', Code.E_JSON),
        ('{"r": 2}', Code.E_ALPHA_MISSING),
        ('{"r": 2, "lora_alpha": 2, "use_dora": true}', Code.E_UNSUPPORTED),
        ('{"r": 2, "lora_alpha": 2}' + " " * (1 << 20), Code.E_FORMAT),
    ],
)
def test_refuses_a_config_that_it_cannot_keep(tmp_path: Path, text: str, code: Code) -> None:
    folder = peft_folder(tmp_path / "folder", TENSORS, CONFIG)
    (folder / "adapter_config.json").write_text(text)
    assert refused(folder) is code


def test_refuses_pickled_weights_under_a_better_name(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "folder", TENSORS, CONFIG)
    (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04\x14\x00\x00\x00" + bytes(100))
    assert refused(folder) is Code.E_MAGIC
