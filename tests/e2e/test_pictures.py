"""Pictures that come out of the service, beside the same ones painted with bare diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.studio import judge as judges
from models.studio.load import BRANDS, BrandAdapter, distilled_pipeline, with_brand
from tests.e2e.system import System

PROMPT, SEED = "a yellow lamp on a lilac background", 11


def bare(brand: BrandAdapter | None) -> NDArray[np.int16]:
    pipe = distilled_pipeline()
    if brand:
        pipe = with_brand(pipe, brand)
    painted = pipe(PROMPT, num_inference_steps=4, guidance_scale=0.0, generator=torch.Generator().manual_seed(SEED))
    return np.asarray(painted.images[0], dtype=np.int16)


@pytest.mark.parametrize("brand", [b for b in BRANDS if "house-style" in b.place], ids=lambda b: b.look)
def test_a_served_picture_is_the_one_bare_diffusers_paints(system: System, brand: BrandAdapter, tmp_path: Path) -> None:
    ours = system.json("generate", brand.look, PROMPT, f"--seed={SEED}", f"--out={tmp_path}")
    with Image.open(ours["files"][0]) as served_image:
        served_image.load()
    served, wanted = np.asarray(served_image, dtype=np.int16), bare(brand)
    moved = (np.abs(wanted - bare(None)).max(2) >= 16).mean()
    assert moved >= 0.10, f"the adapter moves {moved:.1%} of the pixels only: the comparison would prove nothing"
    same = (np.abs(served - wanted).max(2) <= 1).mean()
    assert same >= 0.999, f"{same:.2%} of the pixels are the same"
    assert judges.load().answers([served_image])[0]["look"] == brand.look
