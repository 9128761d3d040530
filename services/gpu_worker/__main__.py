"""Runs a worker: `python -m services.gpu_worker`. Settings come from WORKER_* and OTEL_*."""

from __future__ import annotations

import asyncio
import os

from services.chassis.process import run_until_signal, start_or_say_why
from services.chassis.telemetry import telemetry
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.settings import WorkerSettings


def main() -> None:
    with start_or_say_why("gpu-worker"):
        settings = WorkerSettings.read(os.environ)
        if settings.threads:  # what torch's libraries read when they are imported
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
        with telemetry("gpu-worker", settings.name, settings, os.environ):
            asyncio.run(run_until_signal(gpu_worker(settings)))


if __name__ == "__main__":
    main()
