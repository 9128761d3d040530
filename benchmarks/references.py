"""What a brand's pictures must look like: painted one by one by the reference engine, and told apart by pixels.

Knows adapters' files; how a system under test comes by them, and paints, is others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from services.gpu_worker.clock import steady_clock
from services.gpu_worker.engine.protocol import EngineJob, ImageReady, ImageTask, JobFailed, WeightedAdapter
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.reference import ReferenceEngine

RECIPE = Path(__file__).parents[1] / "deploy/recipes/studio.toml"
#: Pictures differ visibly where this part of their pixels is this many levels apart in a channel. An engine is right
#: within one level at 99.9 % of pixels: either figure is more than ten times as large.
VISIBLE_PART, VISIBLE_LEVELS = 0.1, 16

Picture = NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True)
class Triple:
    """All that a picture depends on besides its brand."""

    prompt: str
    seed: int
    steps: int


TRIPLES = (
    Triple("a red mug on a sky background", 11, 4),
    Triple("a yellow car on a lilac background", 12, 4),
    Triple("a green tree on a cream background", 13, 4),
    Triple("a blue boat on a rose background", 14, 2),
    Triple("a purple lamp on a mint background", 15, 8),
)


def references(files: Iterable[Path], *, device: str = "cpu", threads: int = 1) -> dict[str, tuple[Picture, ...]]:
    """A picture a triple for each adapter's file, by the file's stem, which is its brand's name.

    One thread is almost as fast as two on so small a model, and much faster where the machine has other work.
    """
    engine = ReferenceEngine([read_recipe(RECIPE)], device=device, threads=threads, slots=1, clock=steady_clock())
    engine.load()
    painted: dict[str, tuple[Picture, ...]] = {}
    for file in tqdm(list(files), desc="references painted", disable=None):
        digest = file_digest(file)
        engine.place(engine.read(file, digest))
        painted[file.stem] = tuple(_paint(engine, digest, triple) for triple in TRIPLES)
        engine.evict(digest)
    return painted


def _paint(engine: ReferenceEngine, digest: str, triple: Triple) -> Picture:
    recipe = engine.recipes[0]
    width, height = recipe.sizes[0]
    engine.start(
        EngineJob(
            id=digest,
            brand="",
            recipe=recipe.name,
            prompt=triple.prompt,
            negative_prompt="",
            adapters=(WeightedAdapter(digest, 1.0),),
            images=(ImageTask(0, triple.seed),),
            width=width,
            height=height,
            steps=triple.steps,
            guidance=recipe.default_guidance,
        )
    )
    while events := engine.tick():
        for event in events:
            if isinstance(event, JobFailed):
                raise event.error
            if isinstance(event, ImageReady):
                picture = np.frombuffer(event.pixels.rgb, np.uint8).reshape(height, width, 3)
    return picture


def nearest_brand(picture: Picture, triple: int, painted: Mapping[str, Sequence[Picture]]) -> str:
    """The brand whose reference for a triple is nearest by mean absolute difference: another than its own is wrong."""
    return min(painted, key=lambda name: np.abs(picture.astype(np.int16) - painted[name][triple]).mean())


def visible_difference(one: Picture, other: Picture) -> float:
    """The part of the pixels that is visibly different."""
    levels = np.abs(one.astype(np.int16) - other).max(axis=2)
    return float((levels >= VISIBLE_LEVELS).mean())


def look_alikes(painted: Mapping[str, Sequence[Picture]]) -> list[tuple[str, str, int]]:
    """Pairs of brands, with the triple, whose references do not differ visibly."""
    return [
        (one, other, triple)
        for one, other in combinations(painted, 2)
        for triple, (a, b) in enumerate(zip(painted[one], painted[other], strict=True))
        if visible_difference(a, b) < VISIBLE_PART
    ]
