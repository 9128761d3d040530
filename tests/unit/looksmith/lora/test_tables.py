"""A base's layers are found by every name they have."""

import json
from pathlib import Path

import numpy as np
import pytest

from looksmith.lora.sai import sai_names
from looksmith.lora.tables import (
    Module,
    ModuleTable,
    packaged_table,
    table_from_folder,
    table_from_json,
    table_to_json,
)
from tests.unit.looksmith.lora.lora_files import CONV, Q_PROJ, TO_OUT, safetensors, tensor, tiny_table


def weights(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16") -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(safetensors({name: tensor(np.zeros(shape), dtype) for name, shape in shapes.items()}))


def test_builds_from_the_headers_of_a_diffusers_folder(tmp_path: Path) -> None:
    weights(
        tmp_path / "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        {"conv_in.weight": (8, 4, 3, 3), "conv_in.bias": (8,), "norm.weight": (8,)},
    )
    weights(tmp_path / "unet/diffusion_pytorch_model-00002-of-00002.safetensors", {"proj.weight": (16, 8)})
    weights(
        tmp_path / "text_encoder/model.safetensors",
        {
            "text_model.embeddings.token_embedding.weight": (100, 12),
            "text_model.embeddings.position_embedding.weight": (77, 12),
            "text_model.embeddings.position_ids": (1, 77),
            "text_model.encoder.layers.0.mlp.fc1.weight": (48, 12),
        },
    )
    weights(tmp_path / "vae/model.safetensors", {"conv.weight": (1, 1, 1, 1)})
    table = table_from_folder(tmp_path, family="studio", digest="sha256:1")
    assert table == ModuleTable(
        "studio",
        "sha256:1",
        {
            "unet": {"conv_in": Module("conv", 4, 8, (3, 3)), "proj": Module("linear", 8, 16)},
            "text_encoder": {"text_model.encoder.layers.0.mlp.fc1": Module("linear", 12, 48)},
        },
    )


def test_text_encoder_paths_are_the_same_with_and_without_text_model(tmp_path: Path) -> None:
    weights(tmp_path / "text_encoder/model.safetensors", {"encoder.layers.0.mlp.fc1.weight": (48, 12)})
    table = table_from_folder(tmp_path, family="studio", digest="")
    path = "text_model.encoder.layers.0.mlp.fc1"
    wanted = (path, Module("linear", 12, 48))
    assert table.find("text_encoder", path) == wanted
    assert table.find("text_encoder", "encoder.layers.0.mlp.fc1") == wanted
    assert table.find_flat("text_encoder", path.replace(".", "_")) == wanted
    assert table.find_flat("text_encoder", "encoder_layers_0_mlp_fc1") == wanted


def test_precision_variants_add_up_but_other_shapes_are_refused(tmp_path: Path) -> None:
    weights(tmp_path / "unet/model.safetensors", {"proj.weight": (16, 8)}, "F32")
    weights(tmp_path / "unet/model.fp16.safetensors", {"proj.weight": (16, 8)})
    assert table_from_folder(tmp_path, family="x", digest="").components["unet"] == {"proj": Module("linear", 8, 16)}
    weights(tmp_path / "unet/other.safetensors", {"proj.weight": (16, 9)})
    with pytest.raises(ValueError, match="another proj"):
        table_from_folder(tmp_path, family="x", digest="")


def test_a_folder_without_components_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no safetensors"):
        table_from_folder(tmp_path, family="x", digest="")


def test_json_gives_the_same_table_back() -> None:
    table = tiny_table(second_encoder=True)
    assert table_from_json(table_to_json(table)) == table


def test_json_has_a_line_for_each_module() -> None:
    lines = table_to_json(tiny_table()).splitlines()
    assert f'      "{CONV}": [8, 8, 3, 3],' in lines
    assert f'      "{TO_OUT}": [8, 8],' in lines


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"family": "Not A Family"},
        {"digest": None},
        {"components": {}},
        {"components": []},
        {"components": {"vae": {"a": [1, 1]}}},
        {"components": {"unet": {}}},
        {"components": {"unet": []}},
        {"components": {"unet": {"a": [1]}}},
        {"components": {"unet": {"a": [1, True]}}},
        {"components": {"unet": {"a": [0, 1]}}},
        {"components": {"unet": {"a b": [1, 1]}}},
        {"components": {"unet": {"a.b": [1, 1], "a_b": [1, 1]}}},
        {"components": {"text_encoder": {"encoder.layers.0.mlp.fc1": [1, 1]}}},
    ],
)
def test_refuses_what_is_no_table(change: dict[str, object]) -> None:
    good: dict[str, object] = {"format": 1, "family": "x", "digest": "", "components": {"unet": {"a": [1, 1]}}}
    table_from_json(json.dumps(good))
    with pytest.raises(ValueError):  # noqa: PT011  # each case has its own words
        table_from_json(json.dumps(good | change))


@pytest.mark.parametrize("family", ["nothing", "../limits", ""])
def test_an_unknown_family_has_no_packaged_table(family: str) -> None:
    with pytest.raises(LookupError):
        packaged_table(family)


def test_flattened_names_find_their_module() -> None:
    table = tiny_table()
    for component, modules in table.components.items():
        for path, module in modules.items():
            assert table.find_flat(component, path.replace(".", "_")) == (path, module)
    assert table.find_flat("unet", "no_such_module") is None
    assert table.find_flat("text_encoder_2", Q_PROJ.replace(".", "_")) is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_2_0_out_layers_3", "down_blocks.0.resnets.1.conv2"),
        ("input_blocks_2_1_proj_in", "down_blocks.0.attentions.1.proj_in"),
        (
            "input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_5_0_emb_layers_1", "down_blocks.1.resnets.1.time_emb_proj"),
        ("middle_block_0_skip_connection", "mid_block.resnets.0.conv_shortcut"),
        ("middle_block_1_proj_out", "mid_block.attentions.0.proj_out"),
        ("middle_block_2_in_layers_2", "mid_block.resnets.1.conv1"),
        ("output_blocks_2_0_in_layers_2", "up_blocks.0.resnets.2.conv1"),
        ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_1_proj_in", "up_blocks.1.attentions.2.proj_in"),
        ("time_embed_0", "time_embedding.linear_1"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("out_2", "conv_out"),
    ],
)
def test_original_block_names_find_their_module(name: str, path: str) -> None:
    found = tiny_table().find_flat("unet", name)
    assert found is not None
    assert found[0] == path


def test_an_upsampler_comes_third_where_its_block_has_attention() -> None:
    table = tiny_table()
    unet = {**table.components["unet"], "up_blocks.1.upsamplers.0.conv": Module("conv", 8, 8, (3, 3))}
    found = ModuleTable("x", "", {"unet": unet}).find_flat("unet", "output_blocks_5_2_conv")
    assert found is not None
    assert found[0] == "up_blocks.1.upsamplers.0.conv"


def test_every_layer_of_a_unet_has_an_original_name_of_its_own() -> None:
    unet = tiny_table().components["unet"]
    names = sai_names(unet)
    assert names.keys() == unet.keys()
    assert len(set(names.values())) == len(unet)
