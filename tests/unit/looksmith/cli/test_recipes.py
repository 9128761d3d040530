"""`looksmith recipe check` as people run it: the real examination in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from looksmith.cli import recipes
from looksmith.cli.app import app

ROOT = Path(__file__).parents[4]
SHIPPED = ROOT / "deploy" / "recipes" / "studio.toml"


def test_shows_recipes_that_can_be_served_and_mistakes_with_their_lines_and_exits_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From elsewhere, beside a folder that must not be taken for the checkout's
    monkeypatch.chdir(tmp_path)
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("raise SystemExit(77)")
    text = SHIPPED.read_text().replace("../../models", str(ROOT / "models"))
    Path("bad.toml").write_text(text.replace("DDIMScheduler", "BestScheduler").replace('"studio"', '"other"', 1))
    line = text.splitlines().index('class = "DDIMScheduler"') + 1
    command = ["recipe", "check", str(SHIPPED), "bad.toml", "--slots", "32:40", "--device-memory", "10GiB"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 4
    (complaint,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert complaint == f"error: bad.toml:{line}: sampler.class is no scheduler of diffusers: 'BestScheduler'"
    assert "bad.toml: other, refused" in done.stdout
    good = done.stdout.partition("bad.toml")[0]
    assert good.startswith(f"{SHIPPED}: studio, can be served\n")
    for words in (
        "with that line under [distill], other weights are refused",
        "steps     1, 2, 4, 8; 4 unless asked for others",
        "         4       249    0.8088   -0.5881    0.0000",
    ):
        assert words in good
    memory = done.stdout.partition("memory of the device")[2]
    assert "bank of studio, slots 32:40" in memory and "together, of 10.0 GiB" in memory
    assert "of rank 128: " in memory


def test_outside_a_checkout_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "CHECKOUT", tmp_path)
    done = CliRunner().invoke(app, ["recipe", "check", str(SHIPPED)])
    assert done.exit_code == 1
    assert "recipe check needs a checkout of Looksmith" in done.stderr
