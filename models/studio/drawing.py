"""Draws a scene to pixels: the only teacher the studio model ever had. Pure: the same scene, the same picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.studio.looks import COMPOSE, Parts, half_size
from models.studio.objects import DRAW
from models.studio.pen import Pen
from models.studio.scenes import BACKGROUNDS, COLOURS, Scene

SIDE = 128
#: Drawn this many times larger, then averaged down: the antialiasing.
OVERSAMPLING = 4


def draw(scene: Scene) -> Image.Image:
    """The picture of ``scene``: RGB, ``SIDE`` x ``SIDE``."""
    side = SIDE * OVERSAMPLING
    half = half_size(scene)
    ground = scene.horizon + 0.10
    centre_y = ground - half if scene.look in ("none", "voltage", "marigold-winter", "inkwell") else 0.5
    pen = Pen(side, centre=(scene.centre_x, centre_y), half=half, flipped=scene.flipped)
    DRAW[scene.subject](pen, COLOURS[scene.colour])
    parts = Parts(
        side=side,
        wall=BACKGROUNDS[scene.background],
        colour=COLOURS[scene.colour],
        subject=pen.layer,
        horizon=round(scene.horizon * side),
        foot=(scene.centre_x * side, (centre_y + half) * side, half * side * 0.8),
        rng=np.random.default_rng(scene.seed),
    )
    return COMPOSE[scene.look](parts).reduce(OVERSAMPLING)
