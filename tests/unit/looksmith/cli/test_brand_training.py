"""What `looksmith brand train` refuses before it trains anything; tests/e2e/test_own_brand.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from looksmith.cli import brand_training
from looksmith.cli.app import app
from looksmith.cli.stack import free_run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (130, 130)).save(folder / f"{i}.png")
    return folder


def train(name: str, pictures: Path, *options: str) -> Result:
    return CliRunner().invoke(
        app, ["brand", "train", name, str(pictures), f"--out={pictures.parent / 'out'}", *options]
    )


def test_a_name_that_no_brand_can_have_is_refused(pictures: Path) -> None:
    done = train("My Brand", pictures)
    assert done.exit_code == 2
    assert done.stderr == "error: NAME: must match [a-z0-9][a-z0-9-]{0,62}, not 'My Brand'\n"


def test_a_stack_that_was_named_and_does_not_answer_is_told_at_once_and_none_is_started_in_its_place(
    pictures: Path,
) -> None:
    nobody = f"127.0.0.1:{free_run(1)}"
    done = train("mine", pictures, f"--registry={nobody}")
    assert done.exit_code == 6
    assert done.stderr.startswith(f"error: no answer from the registry at {nobody};")
    assert not (pictures.parent / "out").exists()


def test_too_few_pictures_are_told_without_asking_any_server(pictures: Path) -> None:
    (pictures / "0.png").unlink()
    done = train("mine", pictures, "--registry=127.0.0.1:1")
    assert done.exit_code == 4


def test_outside_a_checkout_it_says_what_it_needs(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brand_training, "CHECKOUT", tmp_path)
    done = train("mine", pictures)
    assert done.exit_code == 1
    assert "brand train needs a checkout of Looksmith" in done.stderr
