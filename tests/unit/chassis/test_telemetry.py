"""What reaches the log of an error: where it was, and nothing of what was asked."""

from __future__ import annotations

import pytest
import structlog

from services.chassis.settings import ServiceSettings
from services.chassis.telemetry import configure_logging

PROMPT = "zebra in a blue hat"


class Settings(ServiceSettings):
    env_prefix = "TEST_"


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_logged_error_says_where_it_was_and_holds_no_prompt(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = structlog.get_config()
    try:
        configure_logging(Settings.read({"TEST_LOG_FORMAT": log_format}))
        try:
            paint(PROMPT)
        except RuntimeError:
            structlog.get_logger().exception("job.failed")
    finally:
        structlog.configure(**before)
    logged = capsys.readouterr().err
    assert "job.failed" in logged
    assert "device lost" in logged
    assert "test_telemetry.py" in logged
    assert "zebra" not in logged


def paint(prompt: str) -> None:
    words = prompt.split()
    raise RuntimeError(f"device lost after {len(words)} words")
