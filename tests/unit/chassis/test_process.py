"""How every service's process starts when it can't: one line that names what is wrong, and one exit code."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

STORE = {"REGISTRY_STORE_ACCESS_KEY": "k", "REGISTRY_STORE_SECRET_KEY": "s" * 16}
WORKER = {"WORKER_NAME": "w1", "WORKER_REGISTRY": "127.0.0.1:1", "WORKER_ENGINE": "fake"}


def start(service: str, environ: Mapping[str, str]) -> tuple[int, list[str]]:
    """The exit code, and the lines on standard error that are no log events."""
    run = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return run.returncode, [line for line in run.stderr.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(
    ("service", "environ", "named"),
    [
        ("registry", {}, ["REGISTRY_STORE_ENDPOINT", "REGISTRY_STORE_ACCESS_KEY", "REGISTRY_STORE_SECRET_KEY"]),
        (
            "registry",
            {**STORE, "REGISTRY_STORE_ENDPOINT": "x:1", "REGISTRY_RECONCILE_S": "0"},
            ["REGISTRY_RECONCILE_S"],
        ),
        ("registry", {**STORE, "REGISTRY_STORE_ENDPOINT": "no/such"}, ["REGISTRY_STORE_ENDPOINT=no/such"]),
        ("registry", {**STORE, "REGISTRY_STORE_ENDPOINT": "x:1", "REGISTRY_BASES": "no/such"}, ["REGISTRY_BASES"]),
        ("router", {"ROUTER_NAME": "r1"}, ["ROUTER_REGISTRY"]),
        ("gpu_worker", {**WORKER, "WORKER_NAME": "Not A Name"}, ["WORKER_NAME", "WORKER_DISK_CACHE"]),
        ("gpu_worker", {**WORKER, "WORKER_DISK_CACHE": "c", "WORKER_RECIPES": "no/such.toml"}, ["no/such.toml"]),
        (
            "router",
            {"ROUTER_NAME": "r1", "ROUTER_REGISTRY": "x:1", "ROUTER_HOST": "0.0.0.0"},  # noqa: S104  # it won't
            ["ROUTER_HOST=0.0.0.0", "ROUTER_TLS_CERT", "ROUTER_ALLOW_PLAINTEXT"],
        ),
        (
            "gpu_worker",  # which knows before it loads what takes minutes
            {**WORKER, "WORKER_DISK_CACHE": "c", "WORKER_TOKENS": "no/such", "WORKER_RECIPES": "no/recipe"},
            ["WORKER_TOKENS: no/such"],
        ),
    ],
)
def test_missing_and_bad_settings_are_named_on_one_line(
    service: str, environ: dict[str, str], named: list[str]
) -> None:
    code, lines = start(service, environ)
    assert code == 2
    assert len(lines) == 1
    assert all(name in lines[0] for name in named)


def test_address_that_is_taken_is_named_on_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = start("router", {"ROUTER_NAME": "r1", "ROUTER_REGISTRY": "x:1", "ROUTER_PORT": str(port)})
    assert code == 2
    assert f"127.0.0.1:{port}" in lines[-1]
