"""Runs a worker: `python -m services.gpu_worker`. Settings come from WORKER_* and OTEL_*."""

from __future__ import annotations

import asyncio
import os
import sys

from services.chassis.server import run_until_signal
from services.chassis.settings import SettingsError
from services.chassis.telemetry import telemetry
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.recipe import RecipeError
from services.gpu_worker.settings import WorkerSettings


def main() -> None:
    try:
        settings = WorkerSettings.read(os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    if settings.threads:  # what torch's libraries read when they are imported
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    try:
        with telemetry("gpu-worker", settings.name, settings, os.environ):
            asyncio.run(run_until_signal(gpu_worker(settings)))
    except RecipeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
