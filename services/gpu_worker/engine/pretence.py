"""What engines without weights share: adapters that only take places, and flat pictures that tell who is painted.

Knows nothing about jobs in time: fake.py and timed.py decide when a picture is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from services.chassis.painting import RecipeFacts
from services.gpu_worker.engine.protocol import AdapterNotPlaced, EngineJob, HostAdapter, Pixels

MAX_WORDS = 30


class Pretence:
    """The part of Engine that is about adapters. ``placements`` and ``kept`` are for assertions."""

    device = "cpu"

    def __init__(self, recipes: Sequence[RecipeFacts], *, slots: int) -> None:
        self.recipes = tuple(recipes)
        self.places = {"peft": slots}
        self.placements: list[str] = []
        self.kept: list[str] = []
        self._placed: set[str] = set()

    def load(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to end."""

    def dropped_words(self, recipe: str, prompt: str) -> str:  # noqa: ARG002  # of the protocol
        return " ".join(prompt.split()[MAX_WORDS:])

    def host_size(self, path: Path, digest: str) -> int:  # noqa: ARG002  # of the protocol
        return path.stat().st_size

    def read(self, path: Path, digest: str) -> HostAdapter:
        size = path.stat().st_size
        self._wait_for_reading(size)
        return HostAdapter(digest, size, None)

    def keep(self, adapter: HostAdapter) -> None:
        self.kept.append(adapter.digest)

    def forget(self, digest: str) -> None:
        self.kept = [kept for kept in self.kept if kept != digest]

    def place(self, adapter: HostAdapter) -> None:
        if adapter.digest not in self._placed:
            self._wait_for_placing(adapter.size_bytes)
            self._placed.add(adapter.digest)
            self.placements.append(adapter.digest)

    def evict(self, digest: str) -> None:
        self._placed.discard(digest)

    def _check_placed(self, job: EngineJob) -> None:
        for adapter in job.adapters:
            if adapter.digest not in self._placed:
                raise AdapterNotPlaced(adapter.digest)

    def _wait_for_reading(self, size_bytes: int) -> None:
        """Takes as long as reading a file of this size does."""
        raise NotImplementedError

    def _wait_for_placing(self, size_bytes: int) -> None:
        """Takes as long as placing an adapter of this size does."""
        raise NotImplementedError


def picture(job: EngineJob, seed: int) -> Pixels:
    """One colour, which names brand, adapters, weights and seed."""
    named = "|".join([job.brand, *(f"{a.digest}:{a.weight}" for a in job.adapters), str(seed)])
    colour = hashlib.sha256(named.encode()).digest()[:3]
    return Pixels(job.width, job.height, colour * (job.width * job.height))
