"""What a picture may show: the words, the colours, and which pictures each split draws. Knows nothing about pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

Rgb = tuple[int, int, int]

OBJECTS = ("mug", "bottle", "house", "tree", "car", "star", "heart", "fish", "lamp", "chair", "boat", "shirt")

COLOURS: dict[str, Rgb] = {
    "red": (222, 49, 54),
    "orange": (247, 130, 24),
    "yellow": (255, 204, 38),
    "green": (52, 165, 78),
    "teal": (17, 146, 146),
    "blue": (40, 106, 218),
    "purple": (122, 62, 190),
    "pink": (255, 105, 176),
    "brown": (134, 86, 48),
    "black": (36, 36, 42),
    "white": (250, 250, 247),
    "gray": (142, 150, 162),
}

BACKGROUNDS: dict[str, Rgb] = {
    "cream": (247, 236, 212),
    "sky": (176, 217, 247),
    "mint": (186, 234, 206),
    "peach": (255, 200, 158),
    "lilac": (214, 194, 245),
    "rose": (244, 164, 180),
    "slate": (104, 120, 142),
    "navy": (36, 50, 84),
}

#: "none" is the base's own look; every other look belongs to one adapter of one brand.
LOOKS = ("none", "inkwell", "voltage", "marigold", "harbour", "marigold-winter")

#: Adapters never see these objects in training; brand figures are taken on them alone.
OBJECTS_UNSEEN_BY_BRANDS = ("car", "heart", "lamp", "bottle")

HELD_OUT_FILE = Path(__file__).with_name("held_out_triples.json")

#: One independent stream of pictures each; a picture is (split, index) and nothing else.
SPLITS = {"train": 1, "judge": 2, "test": 3}


@dataclass(frozen=True)
class Scene:
    """One picture to draw. Positions and sizes are fractions of the picture's side."""

    subject: str
    colour: str
    background: str
    look: str
    centre_x: float
    scale: float
    horizon: float
    flipped: bool
    seed: int

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.subject, self.colour, self.background


@cache
def held_out_triples() -> frozenset[tuple[str, str, str]]:
    """Object, colour, background triples that no training picture shows; the evaluation asks for them."""
    return frozenset((o, c, b) for o, c, b in json.loads(HELD_OUT_FILE.read_text()))


def all_triples() -> list[tuple[str, str, str]]:
    return [(o, c, b) for o in OBJECTS for c in COLOURS for b in BACKGROUNDS]


def choose_held_out_triples(share: float = 0.15, seed: int = 20) -> list[tuple[str, str, str]]:
    """Draws the held-out list; run once, its result is committed as ``held_out_triples.json``."""
    triples = all_triples()
    order = np.random.default_rng(seed).permutation(len(triples))
    return sorted(triples[i] for i in order[: round(share * len(triples))])


def scene(split: str, index: int, *, look: str = "none", subjects: tuple[str, ...] = OBJECTS) -> Scene:
    """The ``index``-th scene of a split: the same arguments always give the same scene.

    The train split never draws a held-out triple; judge and test draw from all triples.
    """
    rng = np.random.default_rng((SPLITS[split], index))
    while True:
        triple = (
            subjects[rng.integers(len(subjects))],
            list(COLOURS)[rng.integers(len(COLOURS))],
            list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
        )
        if split != "train" or triple not in held_out_triples():
            break
    return Scene(
        *triple,
        look=look,
        centre_x=0.5 + rng.uniform(-0.07, 0.07),
        scale=rng.uniform(0.86, 1.04),
        horizon=rng.uniform(0.66, 0.72),
        flipped=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


if __name__ == "__main__":
    HELD_OUT_FILE.write_text("[\n" + ",\n".join(json.dumps(t) for t in choose_held_out_triples()) + "\n]\n")
