"""The talk's test as its users start it: two minutes of it, with a system of its own, and all kinds of chaos."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import BIN

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.timeout(420)
def test_no_request_fails_while_parts_of_the_system_are_killed_stopped_and_scaled(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "loadtest.json", tmp_path / "loadtest.svg"
    asked = ["--duration=120", "--brands=12", "--no-capacity", "--chaos", f"--json={kept}", f"--plot={drawn}"]
    done = subprocess.run(
        [BIN / "looksmith", "loadtest", *asked], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(kept.read_text())
    figures = report["figures"]
    assert {name: figures[name] for name in ("failures", "duplicates", "gaps", "wrong_brand", "wrong_adapter")} == {
        "failures": 0,
        "duplicates": 0,
        "gaps": 0,
        "wrong_brand": 0,
        "wrong_adapter": 0,
    }
    assert figures["requests"] > 100
    struck = {what for _, what in report["happenings"]}
    assert {what.partition("-")[0] for what in struck} >= {
        "kill worker",
        "stop worker",
        "kill router",
        "kill registry",
        "stop store",
    }
    assert {"scaled to 4", "scaled to 1", "scaled to 2"} <= struck
    assert figures["resumed"] + figures["redispatched"] > 0  # some were struck while they were painted
    assert "successes per second" in drawn.read_text()
