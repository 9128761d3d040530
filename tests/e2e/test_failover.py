"""A worker is killed while it holds a brand's request: the caller notices nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.system import System, running


@pytest.mark.timeout(180)
def test_kill_9_before_the_first_image_costs_the_caller_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as system:
        home = system.json("explain", "inkwell")["placed"]["worker"]
        victim = system.pid(home)
        result: dict[str, object] = {}

        def ask() -> None:
            result.update(system.json("generate", "inkwell", "a red mug", "-n", "8", "--steps=8", f"--out={tmp_path}"))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until_busy(system, home)
        os.kill(victim, signal.SIGKILL)
        asking.join(60)
        assert len(result["files"]) == 8  # type: ignore[arg-type]  # a list
        finished = result["finished"]
        assert isinstance(finished, dict)
        assert finished["worker"] != home
        assert finished["attempts"] == 2


def wait_until_busy(system: System, worker: str, patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for seen in system.json("workers")["workers"]:
            if seen["registration"]["name"] == worker and seen["heartbeat"].get("running_jobs"):
                return
    raise AssertionError(f"{worker} never became busy")
