"""How the process starts when it can't."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, ["REGISTRY_STORE_ENDPOINT", "REGISTRY_STORE_ACCESS_KEY", "REGISTRY_STORE_SECRET_KEY"]),
        ({"REGISTRY_STORE_ENDPOINT": "x:1", "REGISTRY_RECONCILE_S": "0"}, ["REGISTRY_RECONCILE_S"]),
    ],
)
def test_missing_and_bad_settings_are_named_on_one_line(environ: dict[str, str], named: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "services.registry"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert all(name in run.stderr for name in named)
