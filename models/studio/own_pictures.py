"""Reads a folder of somebody's own pictures for training: which files count, their captions, and squares cut from them.

Knows nothing about models; what is wrong is said file by file, all of it at once.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE = 128
FEWEST, MOST = 5, 200
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
REFUSED = 4  # exit code
#: What a picture is called that nobody has described.
CAPTION = "a picture"
#: Cuts of each picture, the whole centre among them, and the smallest as a share of its shorter side: a few dozen
#: pictures that never move are learned by heart.
CUTS, SMALLEST_CUT = 8, 0.85


class PicturesError(Exception):
    """A folder that nothing can be trained on; ``problems`` has a line for each file that is in the way."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class OwnPicture:
    """One picture, and the words that go with it."""

    name: str
    caption: str
    square: NDArray[np.uint8] = field(repr=False)  # its centre, [side, side, 3], in the size it came in

    def cuts(self, rng: np.random.Generator, count: int = CUTS) -> NDArray[np.uint8]:
        """The square and smaller ones from within it, [count, SIDE, SIDE, 3]."""
        image, side = Image.fromarray(self.square), len(self.square)
        boxes = [(0.0, 0.0, float(side), float(side))]
        for _ in range(count - 1):
            part = side * rng.uniform(SMALLEST_CUT, 1)
            x, y = rng.uniform(0, side - part, size=2)
            boxes.append((x, y, x + part, y + part))
        sized = [image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box) for box in boxes]
        return np.stack([np.asarray(one) for one in sized])


def read(folder: Path) -> list[OwnPicture]:
    """Every picture in ``folder``, by name; NAME.txt beside NAME.png is its caption.

    Raises:
        PicturesError: there are too few or too many, or some can't be read, are too small or have no proper caption.
    """
    if not folder.is_dir():
        raise PicturesError([f"{folder} is no folder"])
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not FEWEST <= len(files) <= MOST:
        kinds = ", ".join(sorted(SUFFIXES))
        raise PicturesError([f"{folder} holds {len(files)} pictures ({kinds}); {FEWEST} to {MOST} are needed"])
    problems: list[str] = []
    found = []
    for file in files:
        try:
            found.append(OwnPicture(file.name, _caption(file), _square(file)))
        except ValueError as error:
            problems.append(f"{file}: {error}")
    problems += _captions_of_nothing(folder, files)
    if problems:
        raise PicturesError(problems)
    return found


def _square(file: Path) -> NDArray[np.uint8]:
    """Raises: ValueError, which says what is wrong with the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                # Phones turn a picture by a note in it; where it is see-through, paper is white.
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError("has too many pixels; make it smaller") from None
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for files that are broken or something else
        raise ValueError("is no picture, or a broken one") from None
    if min(upright.size) < SIDE:
        raise ValueError(f"is {upright.width} x {upright.height} pixels; its shorter side must have {SIDE} at least")
    paper = Image.new("RGBA", upright.size, "white")
    side = min(upright.size)
    return np.asarray(ImageOps.fit(Image.alpha_composite(paper, upright).convert("RGB"), (side, side)))


def _caption(file: Path) -> str:
    beside = file.with_suffix(".txt")
    if not beside.exists():
        return CAPTION
    try:
        text = beside.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"its caption {beside.name} is no text in UTF-8") from None
    return " ".join(text.split()) or CAPTION


def _captions_of_nothing(folder: Path, files: list[Path]) -> Iterator[str]:
    """Where some pictures have captions, a caption without one is most likely misnamed."""
    described = {f.stem for f in files}
    texts = sorted(folder.glob("*.txt"))
    if any(text.stem in described for text in texts):
        yield from (f"{t}: is the caption of no picture" for t in texts if t.stem not in described)


def read_or_leave(folder: Path) -> list[OwnPicture]:
    """As ``read``, for commands: what is wrong ends the process, a line each, with the exit code REFUSED."""
    try:
        return read(folder)
    except PicturesError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(REFUSED) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    read_or_leave(parser.parse_args().folder)
