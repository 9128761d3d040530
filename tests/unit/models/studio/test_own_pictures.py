from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.studio import own_pictures
from models.studio.own_pictures import CUTS, SIDE, PicturesError, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in three formats, of one colour each; 03.txt describes 03.jpg."""
    for i in range(6):
        file = tmp_path / f"{i:02d}.{('png', 'jpg', 'webp')[i % 3]}"
        Image.new("RGB", (140 + 10 * i, 180), (40 * i, 100, 100)).save(file)
    (tmp_path / "04.txt").write_text("  a red\n mug ")
    return tmp_path


def problems(folder: Path) -> list[str]:
    with pytest.raises(PicturesError) as caught:
        read(folder)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_reads_every_picture_with_its_caption_or_the_plain_one(folder: Path) -> None:
    (folder / "notes.md").write_text("no picture, and none of our business")
    (folder / ".hidden.png").write_text("neither")
    found = read(folder)
    assert [one.name for one in found] == ["00.png", "01.jpg", "02.webp", "03.png", "04.jpg", "05.webp"]
    assert [one.caption for one in found] == ["a picture"] * 4 + ["a red mug", "a picture"]


def test_cuts_the_centre_out_of_a_picture_that_is_no_square(tmp_path: Path) -> None:
    stripes = np.zeros((200, 600, 3), np.uint8)
    stripes[:, 200:400] = 255
    for i in range(5):
        Image.fromarray(stripes).save(tmp_path / f"{i}.png")
    cuts = read(tmp_path)[0].cuts(np.random.default_rng(0))
    assert cuts.shape == (CUTS, SIDE, SIDE, 3)
    assert cuts.min() == 255, "what is beside the square is in no cut"


def test_cuts_differ_from_each_other_and_not_from_one_time_to_the_next(folder: Path) -> None:
    Image.effect_noise((300, 300), 90).convert("RGB").save(folder / "00.png")
    picture = read(folder)[0]
    first, again, other = (picture.cuts(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert len({cut.tobytes() for cut in (*first, *other)}) == 2 * CUTS - 1, "all but the whole square"


def test_a_picture_that_a_phone_turned_is_upright_and_what_is_see_through_is_white(folder: Path) -> None:
    turned = Image.new("RGB", (200, 200), "black")
    turned.paste("white", (0, 0, 200, 100))  # its upper half
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned right by a quarter
    turned.save(folder / "00.png", exif=exif)
    Image.new("RGBA", (200, 200), (255, 0, 0, 0)).save(folder / "03.png")
    first, _, _, fourth, *_ = read(folder)
    assert (first.square[:, 150].mean(), first.square[:, 50].mean()) == (255, 0)
    assert fourth.square.min() == 255


def broken(folder: Path) -> None:
    (folder / "00.png").write_bytes((folder / "00.png").read_bytes()[:200])


def small(folder: Path) -> None:
    Image.new("RGB", (400, 127)).save(folder / "00.png")


def text(folder: Path) -> None:
    (folder / "00.png").write_text("hello")


def bomb(folder: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(folder / "00.png")


def garbled(folder: Path) -> None:
    (folder / "00.txt").write_bytes(b"\xff\xfe\x00")


def misnamed(folder: Path) -> None:
    (folder / "00.png.txt").write_text("a mug")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken, "00.png: is no picture, or a broken one"),
        (text, "00.png: is no picture, or a broken one"),
        (small, "00.png: is 400 x 127 pixels; its shorter side must have 128 at least"),
        (bomb, "00.png: has too many pixels; make it smaller"),
        (garbled, "00.png: its caption 00.txt is no text in UTF-8"),
        (misnamed, "00.png.txt: is the caption of no picture"),
    ],
)
def test_names_the_file_that_is_in_the_way_and_what_is_wrong_with_it(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)
    assert problems(folder) == [said]


def test_tells_everything_that_is_wrong_at_once(folder: Path) -> None:
    for spoil in (small, misnamed):
        spoil(folder)
    (folder / "05.webp").write_text("hello")
    assert [problem.partition(":")[0] for problem in problems(folder)] == ["00.png", "05.webp", "00.png.txt"]


def test_says_how_many_pictures_there_are_where_those_are_too_few_or_too_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("00.png", "01.jpg"):
        (folder / name).unlink()
    assert "holds 4 pictures (.jpeg, .jpg, .png, .webp); 5 to 200 are needed" in problems(folder)[0]
    monkeypatch.setattr(own_pictures, "FEWEST", 1)
    monkeypatch.setattr(own_pictures, "MOST", 3)
    assert "holds 4 pictures" in problems(folder)[0]
