"""The packaged tables of the published bases are what their configs make, and what LoRA files fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bases, module_tables
from benchmarks.lora_files import DIALECTS, random_lora_file
from looksmith.lora import Dialect, Module, inspect, packaged_table, table_to_json
from services.registry.tables import load_tables


@pytest.mark.parametrize("family", bases.FAMILIES)
def test_a_packaged_table_is_what_its_configs_make(family: str) -> None:
    committed = (module_tables.TABLES / f"{family}.json").read_text("utf-8")
    assert table_to_json(module_tables.family_table(family)) == committed


def widths(layers: dict[str, Module]) -> tuple[int, int]:
    """How many layers, and the sum of their widths: a LoRA has rank times as many parameters."""
    return len(layers), sum(layer.in_features + layer.out_features for layer in layers.values())


@pytest.mark.parametrize(
    ("family", "attention", "transformers"),
    [
        ("sd15", (128, 199_296), (160, 374_016)),
        ("sd2", (128, 207_488), (192, 432_128)),  # unlike SD 1.5's: attn2.to_k and to_v, proj_in, proj_out
        ("sdxl", (560, 1_451_520), (722, 2_659_840)),
    ],
)
def test_the_linear_layers_of_the_transformers_are_the_known_ones(
    family: str, attention: tuple[int, int], transformers: tuple[int, int]
) -> None:
    unet = packaged_table(family).components["unet"]
    linear = {path: layer for path, layer in unet.items() if layer.kind == "linear" and ".attentions." in path}
    assert widths(linear) == transformers
    assert widths({path: layer for path, layer in linear.items() if ".attn" in path}) == attention


def test_a_registry_knows_every_packaged_family() -> None:
    assert {*bases.FAMILIES, "studio"} <= load_tables(None).keys()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("family", bases.FAMILIES)
def test_a_random_lora_of_any_dialect_fits_with_every_key_applied(
    family: str, dialect: Dialect, tmp_path: Path
) -> None:
    table = packaged_table(family)
    file = random_lora_file(table, rank=1, seed=3, dialect=dialect, file=tmp_path / "lora.safetensors")
    found = inspect(file, table, declared_base="any of the family")
    assert (found.dialect, found.ranks, found.warnings) == (dialect, (1,), ())
    attention, linear = {"sd15": (128, 160), "sd2": (128, 192), "sdxl": (560, 722)}[family]
    assert len(found.modules) == (attention if dialect is Dialect.DIFFUSERS_OLD else linear)
