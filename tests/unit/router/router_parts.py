"""Small makers of what the router's tests speak of: brands, recipes, workers, requests, and a clock that is turned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from looksmith.errors import NotFound
from looksmith.nouns import AdapterManifest, AdapterRef, AdapterUse, AdapterVersion, Brand, Resolved, Tier
from services.chassis.painting import PaintRequest, Pinned, RecipeFacts, Settled, settle
from services.router.demand import Demand
from services.router.dispatch import Dispatcher
from services.router.fleet import Fleet, FleetSnapshot, WorkerView
from services.router.members import Heartbeat, Registration, WorkerState
from services.router.ports import WorkerCall
from services.router.rate_limits import RateLimits
from services.router.retry_budget import RetryBudget
from services.router.scheduler import Scheduler
from services.router.usage import Usage
from services.router.warmth import Warmth
from services.router.watchdog import Watchdog

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = "a" * 64

Changes = Any  # values of the fields that a test cares about


@dataclass
class Clock:
    """Monotonic seconds, turned by hand."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


def recipe(name: str = "studio", **changes: Changes) -> RecipeFacts:
    facts: dict[str, Any] = {
        "digest": name[0] * 64,
        "family": "studio",
        "base_digest": "b" * 64,
        "sizes": ((64, 64),),
        "steps": (1, 4),
        "default_steps": 4,
    }
    return RecipeFacts(name, **facts | changes)


def registration(name: str = "w1", **changes: Changes) -> Registration:
    facts: dict[str, Any] = {"incarnation": "i1", "address": "127.0.0.1:1", "recipes": (recipe(),)}
    return Registration(name, **facts | changes)


def view(
    name: str = "w1", *, booked: float = 0.0, residency: Mapping[str, Tier] | None = None, **changes: Changes
) -> WorkerView:
    facts: dict[str, Any] = {
        "registration": registration(name),
        "state": WorkerState.READY,
        "heartbeat": Heartbeat(1, full=True, residency=residency or {}),
        "heard_at": 100.0,
        "heard_time": NOON,
        "booked_here": booked,
    }
    return WorkerView(**facts | changes)


def snapshot(*views: WorkerView) -> FleetSnapshot:
    return FleetSnapshot(100.0, views)


def resolved(brand: str = "acme", adapter: str = "look", version: int = 1, digest: str = DIGEST) -> Resolved:
    manifest = AdapterManifest("studio", "b" * 64, "peft", 1, 1, (4,), ("unet",), convolutions=False)
    return Resolved(AdapterVersion(brand, adapter, version, digest, 10, manifest, NOON), seq=version)


def request(request_id: str = "r1", **changes: Changes) -> PaintRequest:
    facts: dict[str, Any] = {"brand": "acme", "prompt": "a red kite"}
    return PaintRequest(request_id=request_id, **facts | changes)


def settled(asked: PaintRequest | None = None, **changes: Changes) -> Settled:
    brand = Brand("acme", default_adapters=(AdapterUse("look"),))
    asked = asked or request(**changes)
    return settle(asked, brand=brand, resolved={use: resolved() for use in asked.uses(brand)}, recipe=recipe())


@dataclass
class KnownBrands:
    """A Registry that knows what it was told."""

    brands: dict[str, Brand] = field(default_factory=dict)
    versions: dict[AdapterRef, Resolved] = field(default_factory=dict)

    async def get_brand(self, name: str) -> Brand:
        if name not in self.brands:
            raise NotFound(f"no brand {name!r}", reason="BRAND_NOT_FOUND")
        return self.brands[name]

    async def resolve(self, ref: AdapterRef) -> Resolved:
        if ref not in self.versions:
            raise NotFound(f"nothing at {ref}", reason="ALIAS_NOT_FOUND")
        return self.versions[ref]


def acme() -> KnownBrands:
    """One brand whose default adapter is in production."""
    brand = Brand("acme", default_adapters=(AdapterUse("look"),), prompt_template="{prompt}, in acme's look")
    return KnownBrands({"acme": brand}, {AdapterRef("acme", "look"): resolved()})


def scheduler_of(fleet: Fleet, clock: Clock, **changes: Changes) -> Scheduler:
    return Scheduler(fleet=fleet, demand=Demand(), warmth=Warmth(fleet=fleet, clock=clock), clock=clock, **changes)


def dispatcher_of(fleet: Fleet, clock: Clock, *, max_redispatches: int = 2, **changes: Changes) -> Dispatcher:
    parts: dict[str, Any] = {
        "scheduler": scheduler_of(fleet, clock),
        "watchdog": Watchdog(fleet=fleet, lease_s=3.0, clock=clock),
        "budget": RetryBudget(),
        "limits": RateLimits(clock=clock),
        "usage": Usage(now=lambda: NOON),
    }
    return Dispatcher(router="r1", fleet=fleet, max_redispatches=max_redispatches, clock=clock, **parts | changes)


class NoConnection:
    """A WorkerConnection of a worker that is never called."""

    @asynccontextmanager
    async def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AsyncIterator[WorkerCall]:
        raise AssertionError("nobody calls this worker")
        yield  # type: ignore[unreachable]  # makes it a generator

    async def retire(self) -> None:
        pass
