"""A real worker around the timed engine, with two differences: pictures of noise, and an engine that hangs on SIGUSR1.

Noise does not compress, so that a large picture has many chunks; the same brand and seed make the same noise. Settings
come from WORKER_*, as the worker's; its engine is always this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.chassis.process import run_until_signal, start_or_say_why
from services.chassis.telemetry import telemetry
from services.gpu_worker.clock import steady_clock
from services.gpu_worker.compose import gpu_worker
from services.gpu_worker.engine.protocol import Event, ImageReady, Pixels
from services.gpu_worker.engine.recipe_file import read_recipe
from services.gpu_worker.engine.timed import TimedEngine
from services.gpu_worker.engine.timed_costs import TimedCosts
from services.gpu_worker.settings import WorkerSettings

_NO_WEIGHTS = "0" * 64


class HangingEngine(TimedEngine):
    """``hangs`` set: the tick under way, or the next one with something to do, never returns."""

    hangs: threading.Event

    def tick(self) -> Sequence[Event]:
        events = super().tick()
        if events and self.hangs.is_set():
            threading.Event().wait()
        return [replace(e, pixels=noise(e.pixels, e.seed)) if isinstance(e, ImageReady) else e for e in events]


def noise(flat: Pixels, seed: int) -> Pixels:
    """As large as ``flat``, and named by its colour and the seed."""
    named = hashlib.sha256(flat.rgb[:3] + seed.to_bytes(8, "little")).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(named, "little")))
    return Pixels(flat.width, flat.height, draw.bytes(len(flat.rgb)))


def main() -> None:
    with start_or_say_why("gpu-worker"):
        settings = WorkerSettings.read(os.environ)
        facts = [read_recipe(Path(file)).facts(base_digest=_NO_WEIGHTS, distill_digest="") for file in settings.recipes]
        engine = HangingEngine(
            facts,
            costs=TimedCosts.measured(settings.timed_scale),
            batch_sizes=settings.batch_sizes,
            slots=sum(settings.slots.values()),
            clock=steady_clock(),
        )
        engine.hangs = threading.Event()
        signal.signal(signal.SIGUSR1, lambda _number, _frame: engine.hangs.set())
        with telemetry("gpu-worker", settings.name, settings, os.environ):
            asyncio.run(run_until_signal(gpu_worker(settings, engine=engine)))


if __name__ == "__main__":
    main()
