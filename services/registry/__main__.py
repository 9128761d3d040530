"""Starts the registry: ``python -m services.registry``. Settings are read here and nowhere else."""

import asyncio
import os
import sys

from services.chassis.server import run_until_signal
from services.chassis.settings import SettingsError
from services.chassis.telemetry import telemetry
from services.registry.compose import registry
from services.registry.settings import RegistrySettings


def main() -> None:
    try:
        settings = RegistrySettings.read(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"registry: {error}\n")
        sys.exit(2)
    with telemetry("registry", settings.name, settings, os.environ):
        asyncio.run(run_until_signal(registry(settings)))


if __name__ == "__main__":
    main()
