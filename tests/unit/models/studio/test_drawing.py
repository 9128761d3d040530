import dataclasses
import itertools

import numpy as np
import pytest

from models.studio.drawing import SIDE, draw
from models.studio.objects import DRAW
from models.studio.scenes import BACKGROUNDS, COLOURS, LOOKS, OBJECTS, scene

SCENE = scene("test", 3)


def pixels(**changes: object) -> np.ndarray:
    return np.asarray(draw(dataclasses.replace(SCENE, **changes)), dtype=int)  # type: ignore[arg-type]  # any field


def test_the_same_scene_is_the_same_picture() -> None:
    assert np.array_equal(pixels(), pixels())
    assert pixels().shape == (SIDE, SIDE, 3)


def test_every_object_can_be_drawn() -> None:
    assert set(DRAW) == set(OBJECTS)


@pytest.mark.parametrize(
    ("field", "words"),
    [("subject", OBJECTS), ("colour", tuple(COLOURS)), ("background", tuple(BACKGROUNDS)), ("look", LOOKS)],
)
def test_each_word_gives_a_picture_of_its_own(field: str, words: tuple[str, ...]) -> None:
    drawn = [pixels(**{field: word}) for word in words]
    nearest = min(np.abs(a - b).max(2).__gt__(24).mean() for a, b in itertools.combinations(drawn, 2))
    assert nearest > 0.02, f"two {field}s differ in {nearest:.1%} of the pixels only"


def test_edges_are_antialiased() -> None:
    # A red star on cream has a few paints; in between lie the blended pixels of its edges.
    colours = {tuple(c) for c in pixels(subject="star", colour="red", background="cream").reshape(-1, 3)}
    assert len(colours) > 100
