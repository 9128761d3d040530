"""A brand from somebody's own pictures, from the folder to the command that is printed at the end."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from looksmith.lora import inspect, packaged_table
from tests.e2e.system import System


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five of them, one with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        picture = Image.new("RGB", (150, 130), "teal")
        ImageDraw.Draw(picture).ellipse((20 + 9 * i, 30, 90 + 9 * i, 100), "gold", "black", 6)
        picture.save(folder / f"{i}.png")
    (folder / "0.txt").write_text("a yellow star on a teal background")
    return folder


def test_a_brand_is_trained_published_and_painted_and_the_command_that_is_told_next_paints_it_again(
    system: System, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    done = system.run(
        *("brand", "train", "mine", str(pictures), "--steps=2", "--trigger-word=discs", f"--out={out}"), timeout_s=90
    )
    assert done.returncode == 0, done.stderr
    assert "Trained on 5 pictures: 2 steps in " in done.stdout
    assert "Published mine/house-style as version 1, now production" in done.stdout
    assert "mine: 100%" in done.stderr and "loss=" in done.stderr
    # What was made says where it comes from, and is what was published
    table = packaged_table("studio")
    found = inspect(out / "house-style.safetensors", table)
    assert (found.lineage.trigger_words, found.lineage.prediction_type) == (("discs",), "v_prediction")
    (version,) = system.json("adapters", "mine")["adapters"]
    assert (version["latest_version"], [alias["name"] for alias in version["aliases"]]) == (1, ["production"])
    # Base, brand, and what it was trained on, a column a prompt
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.width > 5 * 128 and sheet.height > 3 * 128
    # The line to type next
    (line,) = [line for line in done.stdout.splitlines() if "looksmith generate" in line]
    _, *words = shlex.split(line)
    painted = system.json(*words, f"--out={tmp_path}")
    assert painted["finished"]["adapters"][0]["digest"] == found.sha256
    assert painted["finished"]["final_prompt"] == "discs, a red mug on a sky background"
    # The registry knows which base it was trained on
    again = system.json("publish", "mine/house-style", str(out / "house-style.safetensors"))
    assert again["already_existed"] and again["version"]["manifest"]["base_digest"] == table.digest


def test_pictures_that_will_not_do_are_named_before_anything_is_started_or_trained(
    system: System, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "2.png").write_text("hello")
    Image.new("RGB", (60, 400)).save(pictures / "3.png")
    done = system.run("brand", "train", "others", str(pictures), f"--out={tmp_path / 'made'}")
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        f"error: {pictures}/2.png: is no picture, or a broken one",
        f"error: {pictures}/3.png: is 60 x 400 pixels; its shorter side must have 128 at least",
    ]
    assert not (tmp_path / "made").exists()
