"""Small makers of what the worker's tests speak of: recipes, jobs, files, and a registry that can be held up."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from looksmith.errors import FailedPrecondition, NotFound
from looksmith.nouns import AdapterManifest, AdapterRef, AdapterUse, AdapterVersion, Brand, Resolved
from services.chassis.painting import RecipeFacts
from services.gpu_worker.clock import Clock, steady_clock
from services.gpu_worker.disk_cache import DiskCache
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import Engine, EngineJob, ImageTask, WeightedAdapter
from services.gpu_worker.engine_thread import EngineThread
from services.gpu_worker.tiers import AdapterTiers
from services.registry.client import Message, SnapshotEnd

Changes = Any  # values of the fields that a test cares about


def facts(name: str = "studio", **changes: Changes) -> RecipeFacts:
    base = RecipeFacts(
        name=name,
        digest=name[0] * 64,
        family="studio",
        base_digest="b" * 64,
        sizes=((16, 16),),
        steps=(1, 2, 4, 8),
        default_steps=4,
    )
    return replace(base, **changes)


def engine_job(identity: str = "j1", *digests: str, **changes: Changes) -> EngineJob:
    job = EngineJob(
        id=identity,
        brand="acme",
        recipe="studio",
        prompt="a red kite",
        negative_prompt="",
        adapters=tuple(WeightedAdapter(digest, 1.0) for digest in digests),
        images=(ImageTask(0, 7),),
        width=16,
        height=16,
        steps=4,
        guidance=0.0,
    )
    return replace(job, **changes)


def content(name: str, size: int = 100) -> bytes:
    return name.encode().ljust(size, b".")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FilesRegistry:
    """Keeps ports.Registry: each brand has the adapter "look". Downloads wait while ``gates`` says so.

    ``served`` maps a digest to the bytes that come for it; ``downloads`` counts.
    """

    def __init__(self) -> None:
        self.brands: dict[str, Brand] = {}
        self.versions: dict[AdapterRef, Resolved] = {}
        self.yanked: set[AdapterRef] = set()
        self.served: dict[str, bytes] = {}
        self.downloads: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}
        self.calls = 0

    def hold(self, digest: str) -> asyncio.Event:
        return self.gates.setdefault(digest, asyncio.Event())

    def add(self, data: bytes) -> str:
        digest = digest_of(data)
        self.served[digest] = data
        return digest

    def publish(self, brand: str, data: bytes, *, version: int = 1, **changes: Changes) -> str:
        """A brand with one adapter, its default one."""
        digest = self.add(data)
        self.brands[brand] = Brand(brand, default_adapters=(AdapterUse("look"),), **changes)
        manifest = AdapterManifest("studio", "", "kohya", 1, 1, (4,), ("unet",), convolutions=False)
        made = AdapterVersion(brand, "look", version, digest, len(data), manifest, datetime.now(UTC))
        for pick in ("production", version, digest):
            self.versions[AdapterRef(brand, "look", pick)] = Resolved(made, seq=version)
        return digest

    def yank(self, ref: AdapterRef) -> None:
        self.yanked.add(ref)

    async def get_brand(self, name: str) -> Brand:
        self.calls += 1
        if name not in self.brands:
            raise NotFound(f"brand {name!r} has no record", reason="BRAND_NOT_FOUND")
        return self.brands[name]

    async def resolve(self, ref: AdapterRef) -> Resolved:
        self.calls += 1
        if ref not in self.versions:
            raise NotFound(f"{ref} is not known", reason="VERSION_NOT_FOUND")
        if ref in self.yanked:
            raise FailedPrecondition(f"{ref} was withdrawn", reason="ADAPTER_YANKED")
        return self.versions[ref]

    async def watch(self, *, cursor: str = "") -> AsyncGenerator[Message, None]:
        yield SnapshotEnd(0, "")
        await asyncio.Event().wait()

    async def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        self.downloads[digest] += 1
        if gate := self.gates.get(digest):
            await gate.wait()
        if digest not in self.served:
            raise NotFound(f"{brand} never had {digest[:12]}", reason="DIGEST_NOT_FOUND")
        data = self.served[digest]
        for start in range(0, len(data), 40):
            yield data[start : start + 40]


@asynccontextmanager
async def adapter_tiers(
    folder: Path,
    registry: FilesRegistry,
    *,
    engine: Engine | None = None,
    disk_bytes: int = 10_000,
    host_bytes: int = 10_000,
    slots: int = 6,
    clock: Clock | None = None,
) -> AsyncIterator[tuple[AdapterTiers, EngineThread]]:
    clock = clock or steady_clock()
    engine = engine or FakeEngine([facts()], slots=slots)
    async with EngineThread(engine, clock=clock, crowding=lambda: 1.0) as thread:
        tiers = AdapterTiers(
            disk=DiskCache(folder, limit_bytes=disk_bytes),
            registry=registry,
            engine_thread=thread,
            host_bytes=host_bytes,
            clock=clock,
        )
        async with tiers.running():
            yield tiers, thread


async def eventually(condition: Any) -> None:  # noqa: ANN401  # any callable that turns true
    """Waits, at most two seconds, until ``condition()`` holds."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110  # what is waited for says nothing when it happens
            await asyncio.sleep(0.005)
