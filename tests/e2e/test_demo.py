"""``looksmith demo``, which is ``make demo``: pictures, figures, and nothing left running."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.system import BIN, BRANDS, ROOT

KEYS = {
    "brand", "prompt", "version", "digest", "worker", "reason", "tier",
    "swap_visible_ms", "denoise_ms", "total_ms", "seed",
}  # fmt: skip


@pytest.mark.timeout(180)
def test_demo_shows_every_brand_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "looksmith", "demo", f"--out={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    images = json.loads((tmp_path / "demo.json").read_text())["images"]
    assert {i["brand"] for i in images} == {"base", *BRANDS}
    assert len(images) == 15
    assert all(set(i) == KEYS for i in images)
    assert {i["worker"] for i in images} == {"worker-0", "worker-1"}
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width > 400
    assert "▀" in done.stdout
    assert str(tmp_path / "contact-sheet.png") in done.stdout
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert left == ""
