"""Renders splits to arrays once and keeps them in the cache folder. Knows nothing about models."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.studio.drawing import draw
from models.studio.scenes import OBJECTS, Scene, scene

#: Git-ignored; safe to delete, rebuilt on demand.
CACHE = Path(__file__).with_name(".cache")


def scenes(
    split: str, count: int, *, look: str = "none", subjects: tuple[str, ...] = OBJECTS, start: int = 0
) -> list[Scene]:
    return [scene(split, i, look=look, subjects=subjects) for i in range(start, start + count)]


def _pixels(one: Scene) -> NDArray[np.uint8]:
    return np.asarray(draw(one))


def pictures(wanted: Iterable[Scene], *, name: str) -> NDArray[np.uint8]:
    """Pictures as uint8 [n, side, side, 3], drawn by two processes and cached under ``name``."""
    file = CACHE / f"{name}.npy"
    if not file.exists():
        CACHE.mkdir(exist_ok=True)
        with ProcessPoolExecutor(2) as pool:
            drawn = np.stack(list(pool.map(_pixels, wanted, chunksize=64)))
        beside = file.with_suffix(".part.npy")
        np.save(beside, drawn)
        beside.rename(file)
    loaded: NDArray[np.uint8] = np.load(file)
    return loaded
