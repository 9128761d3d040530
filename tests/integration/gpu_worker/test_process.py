"""`python -m services.gpu_worker` as an operator runs it: settings, health, metrics, SIGTERM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.integration]


@contextmanager
def process(folder: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    settings = {
        "WORKER_NAME": "w1",
        "WORKER_REGISTRY": "127.0.0.1:1",
        "WORKER_DISK_CACHE": str(folder / "cache"),
        "WORKER_ENGINE": "fake",
        **environ,
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "services.gpu_worker"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stderr:
            child.stderr.close()


def address_in(lines: IO[str], event: str) -> str:
    """The address in the next line about ``event``."""
    for line in lines:
        fields = json.loads(line)
        if fields["event"] == event:
            return str(fields["address"])
    raise AssertionError(f"the log ended before {event}")


def test_serves_health_and_metrics_and_ends_in_order_on_sigterm(tmp_path: Path) -> None:
    with process(tmp_path, WORKER_METRICS_PORT="0") as child:
        assert child.stderr
        metrics = address_in(child.stderr, "metrics.serving")
        address = address_in(child.stderr, "server.listening")
        with grpc.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know no methods
            asked = health_pb2.HealthCheckRequest(service="looksmith.v1.ImageGenerationService")
            assert health.Check(asked, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as page:
            told = page.read().decode()
        for gauge in (r"slots\{.*state=\"free\".*\} 8", r"adapters\{.*tier=\"device\".*\} 0", r"queue\{.*\} 0"):
            assert re.search(f"looksmith_worker_{gauge}", told), told
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0
        assert address_in(child.stderr, "server.stopped") == address
