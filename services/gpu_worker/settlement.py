"""From what was asked to what is painted: the recipe, exact adapters and the prompt that the text encoder gets.

A router has pinned them, or the registry is asked here. Knows nothing about painting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from looksmith.nouns import Brand
from services.chassis.painting import PaintRequest, Pinned, RecipeFacts, Settled, settle
from services.gpu_worker.errors import PromptTooLong, RecipeNotServed
from services.gpu_worker.ports import Registry


@dataclass(frozen=True)
class Settlement:
    """``stale_since``: the registry could not reach its store then, and answered from memory."""

    settled: Settled
    stale_since: datetime | None = None


class Settler:
    """``recipes`` are those that the engine serves; the first is for requests and brands that name none."""

    def __init__(
        self, *, registry: Registry, recipes: Sequence[RecipeFacts], dropped_words: Callable[[str, str], str]
    ) -> None:
        self._registry, self._recipes, self._dropped_words = registry, recipes, dropped_words

    def serve(self, recipes: Sequence[RecipeFacts]) -> None:
        """From now on, those of another engine."""
        self._recipes = recipes

    async def settle(self, request: PaintRequest) -> Settlement:
        """Leaves nothing open.

        Raises:
            LooksmithError: as services.chassis.painting.settle, RecipeNotServed, PromptTooLong, or the registry's.
        """
        made = await (self._pinned(request, request.pinned) if request.pinned else self._resolved(request))
        beyond = await asyncio.to_thread(self._dropped_words, made.settled.recipe.name, made.settled.final_prompt)
        if not beyond:
            return made
        if not request.allow_truncation:
            raise PromptTooLong(beyond)
        warning = f"the prompt is too long for the text encoder; it was painted without {beyond!r}"
        return replace(made, settled=replace(made.settled, warnings=(*made.settled.warnings, warning)))

    async def _resolved(self, request: PaintRequest) -> Settlement:
        brand = await self._registry.get_brand(request.brand)
        recipe = self._named(request.recipe or brand.recipe)
        uses = request.uses(brand)
        resolved = await asyncio.gather(*(self._registry.resolve(use.ref(brand.name)) for use in uses))
        return Settlement(
            settle(request, brand=brand, resolved=dict(zip(uses, resolved, strict=True)), recipe=recipe),
            min((r.stale_since for r in resolved if r.stale_since), default=None),
        )

    async def _pinned(self, request: PaintRequest, pinned: Pinned) -> Settlement:
        recipe = next((r for r in self._recipes if r.digest == pinned.recipe_digest), None)
        if recipe is None:
            raise RecipeNotServed(pinned.recipe_digest[:12], [r.name for r in self._recipes])
        guidance = recipe.default_guidance if request.guidance is None else request.guidance
        brand = Brand(request.brand)
        if guidance > 1 and request.negative_prompt is None:  # the one thing of the brand's that is not pinned
            brand = await self._registry.get_brand(request.brand)
        bare = replace(request, adapters=(), no_adapters=True)
        settled = settle(bare, brand=brand, resolved={}, recipe=recipe)
        return Settlement(replace(settled, request=request, adapters=pinned.adapters, final_prompt=pinned.final_prompt))

    def _named(self, name: str) -> RecipeFacts:
        if not name:
            return self._recipes[0]
        recipe = next((recipe for recipe in self._recipes if recipe.name == name), None)
        if recipe is None:
            raise RecipeNotServed(name, [r.name for r in self._recipes])
        return recipe
