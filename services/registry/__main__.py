"""Starts the registry: ``python -m services.registry``. Settings are read here and nowhere else."""

import asyncio
import os

from services.chassis.process import run_until_signal, start_or_say_why
from services.chassis.telemetry import telemetry
from services.registry.compose import registry
from services.registry.settings import RegistrySettings


def main() -> None:
    with start_or_say_why("registry"):
        settings = RegistrySettings.read(os.environ)
        with telemetry("registry", settings.name, settings, os.environ):
            asyncio.run(run_until_signal(registry(settings)))


if __name__ == "__main__":
    main()
