"""A brand's references are its own, so that a picture of the wrong brand is found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.brands import write_brands
from benchmarks.references import TRIPLES, Picture, look_alikes, nearest_brand, references, visible_difference


def plain(level: int) -> Picture:
    return np.full((8, 8, 3), level, np.uint8)


def test_the_nearest_brand_is_that_of_the_least_mean_difference() -> None:
    painted = {"dark": [plain(10), plain(200)], "light": [plain(250), plain(100)]}
    assert nearest_brand(plain(40), 0, painted) == "dark"
    assert nearest_brand(plain(40), 1, painted) == "light"


def test_a_difference_is_visible_where_one_channel_is_far_off() -> None:
    one, other = plain(100), plain(100)
    other[0, :, 1] = 84
    other[1] = 115
    assert visible_difference(one, other) == visible_difference(other, one) == 1 / 8


def test_brands_that_look_alike_in_any_triple_are_named() -> None:
    painted = {"a": [plain(0), plain(0)], "b": [plain(99), plain(15)], "c": [plain(50), plain(200)]}
    assert look_alikes(painted) == [("a", "b", 1)]


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute on an idle core
def test_brands_paint_visibly_distinct_pictures(tmp_path: Path) -> None:
    painted = references(write_brands(12, tmp_path))
    assert {len(pictures) for pictures in painted.values()} == {len(TRIPLES)}
    assert len(painted) == 12
    assert look_alikes(painted) == []
    for name, pictures in painted.items():
        for triple, picture in enumerate(pictures):
            assert nearest_brand(picture, triple, painted) == name
