"""Runs a router: `python -m services.router`. Settings come from ROUTER_* and OTEL_*."""

from __future__ import annotations

import asyncio
import os
import sys

from services.chassis.server import run_until_signal
from services.chassis.settings import SettingsError
from services.chassis.telemetry import telemetry
from services.router.compose import router
from services.router.settings import RouterSettings


def main() -> None:
    try:
        settings = RouterSettings.read(os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    with telemetry("router", settings.name, settings, os.environ):
        asyncio.run(run_until_signal(router(settings)))


if __name__ == "__main__":
    main()
