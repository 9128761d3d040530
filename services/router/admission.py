"""Turns what a caller sent into what is painted: looks the brand up, resolves adapters, pins the seed, spots retries.

Chooses no worker and sends nothing. What can't be painted is refused here, before anyone works on it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from opentelemetry import trace

from looksmith.errors import InvalidField
from looksmith.nouns import AdapterUse, Brand, Resolved
from services.chassis.painting import PaintRequest, RecipeFacts, Settled, content_digest, settle
from services.router.errors import NoWorker, RecipeAmbiguous, RecipeNotFound
from services.router.fleet import Fleet, FleetSnapshot
from services.router.ports import Registry
from services.router.request_memory import Remembered, RequestMemory, Try

tracer = trace.get_tracer(__name__)


@dataclass(frozen=True)
class Share:
    """What a brand may have of the fleet; 0: no limit."""

    weight: float = 1.0
    max_queued_jobs: int = 0
    gpu_seconds_per_minute: float = 0.0

    def of(self, brand: Brand) -> Share:
        """A brand's own share, as far as its record names one; else this."""
        limits = brand.limits
        return Share(
            weight=brand.fair_share_weight or self.weight,
            max_queued_jobs=limits.max_queued_jobs or self.max_queued_jobs,
            gpu_seconds_per_minute=limits.max_gpu_seconds_per_minute or self.gpu_seconds_per_minute,
        )


@dataclass(frozen=True)
class Admitted:
    """A request with nothing left open, the try that will paint it, and what its brand may have."""

    settled: Settled
    this_try: Try
    stale_since: datetime | None = None
    share: Share = Share()


class Admission:
    """``share`` is that of brands whose records say nothing."""

    def __init__(
        self,
        *,
        registry: Registry,
        fleet: Fleet,
        memory: RequestMemory,
        default_recipe: str = "",
        share: Share = Share(),
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._memory = memory
        self._default_recipe = default_recipe
        self._share = share

    async def admit(self, request: PaintRequest) -> Admitted:
        """Settles a request and opens its try; an earlier try under the same id ends.

        Raises:
            InvalidArgument: a field that recipe or brand don't allow, or one that only routers set.
            NotFound: brand, adapter, version or recipe.
            FailedPrecondition: an adapter that may not or can't be used.
            AlreadyExists: the request id stood for other content.
            Unavailable: no worker has joined, or the registry is out of reach.
        """
        with tracer.start_as_current_span("admit", record_exception=False) as span:
            remembered = self._memory.recall(request.request_id)
            settled, resolved, brand = await self._settle(request, remembered)
            content = content_digest(request, settled)
            settled, this_try = self._memory.begin(settled, resolved, content)
            span.set_attributes(
                {
                    "looksmith.recipe": settled.recipe.name,
                    "looksmith.adapters": [adapter.digest for adapter in settled.adapters],
                    "looksmith.retry": remembered is not None,
                }
            )
            stale = [answer.stale_since for answer in resolved.values() if answer.stale_since]
            return Admitted(settled, this_try, min(stale, default=None), self._share.of(brand))

    def ended(self, admitted: Admitted) -> None:
        """Frees the id of a request that is over before any worker has accepted it."""
        self._memory.give_back(admitted.settled.request.request_id, admitted.this_try)

    async def preview(self, request: PaintRequest) -> Admitted:
        """Settles a request that nobody will paint; remembers nothing. Raises as ``admit``."""
        settled, _, brand = await self._settle(request, None)
        return Admitted(settled, Try(), share=self._share.of(brand))

    async def _settle(
        self, request: PaintRequest, remembered: Remembered | None
    ) -> tuple[Settled, Mapping[AdapterUse, Resolved], Brand]:
        if request.pinned:
            raise InvalidField("pinned", "is set by routers, never by callers")
        brand = await self._registry.get_brand(request.brand)
        known = remembered.settled.recipe.name if remembered else ""
        name = request.recipe or known or brand.recipe or self._default_recipe
        recipe = find_recipe(name, self._fleet.snapshot())
        if remembered and remembered.settled.recipe.name == recipe.name and not (request.width or request.height):
            # The brand may have another default size by now, which this recipe need not even paint.
            request = replace(request, width=remembered.settled.width, height=remembered.settled.height)
        resolved = await self._resolve(brand, request.uses(brand), remembered)
        return settle(request, brand=brand, resolved=resolved, recipe=recipe), resolved, brand

    async def _resolve(
        self, brand: Brand, uses: tuple[AdapterUse, ...], remembered: Remembered | None
    ) -> Mapping[AdapterUse, Resolved]:
        async def resolve(use: AdapterUse) -> Resolved:
            known = remembered.resolution(use) if remembered else None
            return known or await self._registry.resolve(use.ref(brand.name))

        return dict(zip(uses, await asyncio.gather(*map(resolve, uses)), strict=True))


def find_recipe(name: str, fleet: FleetSnapshot) -> RecipeFacts:
    """The recipe of that name, or without one the fleet's only recipe.

    While workers of two builds serve different recipes under one name, the one that most of them serve.

    Raises:
        NoWorker: the fleet is empty.
        RecipeNotFound: nobody serves it.
        RecipeAmbiguous: there is no name, and several are served.
    """
    if not fleet.workers:
        raise NoWorker("no worker has joined this router")
    served = [recipe for view in fleet.workers for recipe in view.registration.recipes]
    known = sorted({recipe.name for recipe in served})
    if not name and len(known) > 1:
        raise RecipeAmbiguous(known)
    name = name or known[0]
    times = Counter(recipe.digest for recipe in served if recipe.name == name)
    if not times:
        raise RecipeNotFound(name, known)
    digest = max(times, key=lambda digest: (times[digest], digest))
    return next(recipe for recipe in served if recipe.digest == digest and recipe.name == name)
