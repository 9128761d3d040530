"""The shipped weights: complete, loadable the plain way with every key applied, and able to paint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.studio import judge as judges
from models.studio.dialects import DIFFUSERS_METADATA
from models.studio.evaluate import figures_table, kept, paint
from models.studio.files import STUDIO, model_files, verify
from models.studio.load import BRANDS, BrandAdapter, base_pipeline, distilled_pipeline, with_brand

TRIPLES = [("mug", "red", "sky"), ("tree", "green", "cream"), ("heart", "purple", "mint"), ("house", "blue", "peach")]


def weights_of(brand: BrandAdapter) -> dict[str, torch.Tensor]:
    file = brand.path / "adapter_model.safetensors" if brand.path.is_dir() else brand.path
    return load_file(file)


def halves(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Every A and B of a file, alphas left out."""
    return [t for name, t in tensors.items() if not name.endswith(".alpha")]


def fingerprint(tensor: torch.Tensor) -> tuple[torch.Size, float, float]:
    values = tensor.detach().double()
    return values.shape, float(values.sum()), float(values.abs().sum())


def test_every_file_is_the_committed_one() -> None:
    verify()


def test_weights_stay_small_enough_to_clone() -> None:
    weights = [f for f in model_files() if f.suffix == ".safetensors"]
    assert sum(f.stat().st_size for f in weights) <= 24e6


@pytest.mark.parametrize("brand", BRANDS, ids=lambda brand: brand.look)
def test_every_key_of_a_brand_s_file_is_applied_with_its_value(brand: BrandAdapter) -> None:
    pipe = with_brand(base_pipeline(), brand)
    applied = {
        name: value
        for part in (pipe.unet, pipe.text_encoder)
        for name, value in part.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    in_file = halves(weights_of(brand))
    assert len(applied) == len(in_file) > 0
    # Values identify tensors whatever a dialect calls them: compare the two as multisets.
    assert sorted(map(fingerprint, applied.values())) == sorted(map(fingerprint, in_file))


def test_dialects_ranks_and_alphas_are_as_publishers_bring_them() -> None:
    config = json.loads((BRANDS[0].path / "adapter_config.json").read_text())
    assert config["r"] != config["lora_alpha"]
    names = {brand.look: list(weights_of(brand)) for brand in BRANDS}
    assert all(name.startswith("base_model.model.") for name in names["inkwell"])
    assert any(name.endswith(".alpha") for name in names["marigold"])
    assert any(name.startswith("lora_te_") and "out_proj" in name for name in names["marigold"])
    assert all("_lora.down.weight" in name or "_lora.up.weight" in name for name in names["marigold-winter"])
    ranks = {min(t.shape) for brand in BRANDS for t in halves(weights_of(brand))}
    assert {4, 8, 16, 32} <= ranks
    assert DIFFUSERS_METADATA.encode() in BRANDS[1].path.read_bytes()[:20_000]


def test_four_steps_paint_what_was_asked() -> None:
    said = judges.load().answers(paint(distilled_pipeline(), TRIPLES, steps=4, guidance=0.0, first_seed=3))
    assert sum(kept(said, TRIPLES)) >= len(TRIPLES) - 1, said


def test_a_brand_is_recognised_and_the_base_is_nobody_s() -> None:
    judge = judges.load()
    plain = judge.answers(paint(distilled_pipeline(), TRIPLES, steps=4, guidance=0.0, first_seed=3))
    assert [a["look"] for a in plain].count("none") >= len(TRIPLES) - 1
    branded = paint(with_brand(distilled_pipeline(), BRANDS[0]), TRIPLES, steps=4, guidance=0.0, first_seed=3)
    assert [a["look"] for a in judge.answers(branded)].count(BRANDS[0].look) >= len(TRIPLES) - 1


def test_model_card_quotes_the_committed_figures() -> None:
    figures = json.loads((STUDIO / "evaluation.json").read_text())
    assert figures_table(figures) in (STUDIO / "README.md").read_text()
    assert figures["seconds_4"] < 0.5


def test_held_out_triples_are_listed_beside_the_model() -> None:
    assert len(json.loads(Path(STUDIO / "held_out_triples.json").read_text())) >= 150
