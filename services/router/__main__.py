"""Runs a router: `python -m services.router`. Settings come from ROUTER_* and OTEL_*."""

from __future__ import annotations

import asyncio
import os

from services.chassis.process import run_until_signal, start_or_say_why
from services.chassis.telemetry import telemetry
from services.router.compose import router
from services.router.settings import RouterSettings


def main() -> None:
    with start_or_say_why("router"):
        settings = RouterSettings.read(os.environ)
        with telemetry("router", settings.name, settings, os.environ):
            asyncio.run(run_until_signal(router(settings)))


if __name__ == "__main__":
    main()
