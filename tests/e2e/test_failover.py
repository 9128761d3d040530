"""A worker is killed while it holds a brand's request: the caller notices nothing."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from looksmith.v1 import fleet_pb2, fleet_pb2_grpc
from tests.e2e.system import System, running


@pytest.mark.timeout(180)
def test_kill_9_of_the_worker_that_paints_costs_the_callers_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as system:
        home = system.json("explain", "inkwell")["placed"]["worker"]
        victim = system.pid(home)

        def ask(number: int) -> Any:  # noqa: ANN401  # JSON is what it is
            out = tmp_path / f"request-{number}"
            return system.json("generate", "inkwell", "a red mug", "-n", "16", "--steps=8", f"--out={out}")

        # More than the victim can paint between a look at it and the signal.
        with ThreadPoolExecutor(4) as asking:
            answers = [asking.submit(ask, number) for number in range(4)]
            wait_until_busy(system, home)
            os.kill(victim, signal.SIGKILL)
            results = [answer.result(120) for answer in answers]
        assert [len(result["files"]) for result in results] == [16] * 4
        assert {len({*map(str, result["files"])}) for result in results} == {16}
        assert home not in {result["finished"]["worker"] for result in results}
        assert any(result["finished"]["attempts"] == 2 for result in results)


def wait_until_busy(system: System, worker: str, patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    with grpc.insecure_channel(system.router) as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        while time.monotonic() < deadline:
            for seen in fleet.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=5).workers:
                if seen.registration.name == worker and seen.heartbeat.running_jobs:
                    return
            time.sleep(0.02)
    raise AssertionError(f"{worker} never became busy")
