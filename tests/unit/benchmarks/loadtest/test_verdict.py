import io
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.loadtest.users import Request
from benchmarks.loadtest.verdict import Window, figures, longest_gap, look, tiers
from benchmarks.references import TRIPLES, Picture

WINDOW = Window(100.0, 110.0)
DIGESTS = {"acme": "a" * 64, "bolt": "b" * 64}


def request(**changes: Any) -> Request:  # noqa: ANN401  # values of its fields
    asked = Request("acme", 0, began=101.0, ended=103.0, digests=(DIGESTS["acme"],), seed=TRIPLES[0].seed, tier="host")
    return replace(asked, **changes)


def picture(level: int) -> Picture:
    return np.full((8, 8, 3), level, np.uint8)


def png(pixels: Picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


REFERENCES = {"acme": (picture(50),) * len(TRIPLES), "bolt": (picture(90),) * len(TRIPLES)}


def test_all_is_well_where_every_request_was_answered_with_its_brands_adapter() -> None:
    found = figures([request(), request()], WINDOW, DIGESTS)
    assert {found[name] for name in ("failures", "duplicates", "gaps", "wrong_adapter", "wrong_seed")} == {0}
    assert (found["requests"], found["pictures_per_s"], found["p50_s"]) == (2, 0.2, 2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"error": "UNAVAILABLE: gone"}, "failures"),
        ({"faults": Counter(missing=1)}, "failures"),
        ({"faults": Counter(duplicates=1)}, "duplicates"),
        ({"faults": Counter(gaps=1)}, "gaps"),
        ({"digests": (DIGESTS["bolt"],)}, "wrong_adapter"),
        ({"digests": ()}, "wrong_adapter"),
        ({"seed": 99}, "wrong_seed"),
    ],
)
def test_each_fault_is_counted_under_its_name(changes: dict[str, Any], name: str) -> None:
    found = figures([request(), request(**changes)], WINDOW, DIGESTS)
    assert found[name] == 1


def test_the_longest_gap_includes_the_beginning_and_the_end() -> None:
    assert longest_gap([104.0, 105.0, 108.0], WINDOW) == 4
    assert longest_gap([101.0, 103.0], WINDOW) == 7
    assert longest_gap([], WINDOW) == 10
    assert longest_gap([99.0, 105.0, 111.0], WINDOW) == 5  # what ended outside of it says nothing


def test_a_picture_is_of_the_wrong_brand_where_anothers_reference_is_nearer() -> None:
    pictures = {"own": png(picture(60)), "others": png(picture(75))}
    asked = [request(picture="own"), request(picture="others"), request(picture="others", brand="bolt")]
    found = look(asked, pictures, REFERENCES)
    assert found["wrong_brand"] == 1
    assert found["pictures_beyond_a_level"] == 3


def test_a_picture_within_one_level_is_right() -> None:
    found = look([request(picture="own")], {"own": png(picture(51))}, REFERENCES)
    assert (found["wrong_brand"], found["pictures_beyond_a_level"]) == (0, 0)
    assert found["nearest_to_another"] == pytest.approx(1 / 39)


def test_a_failed_request_has_no_tier_and_no_picture() -> None:
    asked = [request(), request(error="UNAVAILABLE: gone", tier="", picture="")]
    assert tiers(asked) == {"host": 1.0}
    assert look(asked, {}, REFERENCES)["different_pictures"] == 0
