from __future__ import annotations

from dataclasses import replace

import pytest

from looksmith.errors import FailedPrecondition, InvalidField, NotFound
from looksmith.nouns import AdapterRef, PinnedAdapter
from services.chassis.painting import PaintRequest, Pinned
from services.gpu_worker.errors import PromptTooLong, RecipeNotServed
from services.gpu_worker.settlement import Settler
from tests.unit.gpu_worker.worker_parts import Changes, FilesRegistry, content, facts


def request(**changes: Changes) -> PaintRequest:
    return replace(PaintRequest("acme", "a red kite", "r1"), **changes)


def pinned(**changes: Changes) -> Pinned:
    adapters = (PinnedAdapter("look", 3, "d" * 64, 0.5),)
    return replace(Pinned(adapters, "s" * 64, "kite, acme style", attempt=2, router="r"), **changes)


@pytest.fixture
def registry() -> FilesRegistry:
    registry = FilesRegistry()
    registry.publish("acme", content("a"), prompt_template="{prompt}, acme style", negative_prompt="blur")
    return registry


def settler(registry: FilesRegistry, *, words: int = 30) -> Settler:
    recipes = [facts(), facts("xl", max_guidance=8.0)]
    return Settler(registry=registry, recipes=recipes, dropped_words=lambda _recipe, p: " ".join(p.split()[words:]))


async def test_asked_directly_it_resolves_the_brand_s_adapters_prompt_and_the_first_recipe(
    registry: FilesRegistry,
) -> None:
    settled = (await settler(registry).settle(request())).settled
    resolved = registry.versions[AdapterRef("acme", "look")].version
    assert settled.adapters == (PinnedAdapter("look", 1, resolved.digest, 1.0),)
    assert settled.final_prompt == "a red kite, acme style"
    assert settled.recipe.name == "studio"


async def test_what_a_router_pinned_is_used_as_it_is_and_the_registry_is_not_asked(registry: FilesRegistry) -> None:
    settled = (await settler(registry).settle(request(pinned=pinned(), seed=5))).settled
    assert settled.adapters == pinned().adapters
    assert settled.final_prompt == "kite, acme style"
    assert settled.seed == 5
    assert settled.request.pinned == pinned()
    assert registry.calls == 0


async def test_guidance_alone_makes_a_pinned_request_need_the_brand_s_negative_prompt(registry: FilesRegistry) -> None:
    settled = (await settler(registry).settle(request(pinned=pinned(recipe_digest="x" * 64), guidance=5.0))).settled
    assert settled.negative_prompt == "blur"
    assert registry.calls == 1


async def test_refuses_a_recipe_that_it_does_not_serve_by_name_and_by_digest(registry: FilesRegistry) -> None:
    for asked in (request(recipe="flux"), request(pinned=pinned(recipe_digest="f" * 64))):
        with pytest.raises(RecipeNotServed) as caught:
            await settler(registry).settle(asked)
        assert caught.value.reason == "RECIPE_NOT_FOUND"


async def test_refuses_what_the_recipe_can_t_paint_also_when_pinned(registry: FilesRegistry) -> None:
    for asked in (request(steps=3), request(steps=3, pinned=pinned())):
        with pytest.raises(InvalidField) as caught:
            await settler(registry).settle(asked)
        assert caught.value.reason == "STEPS_UNSUPPORTED"


async def test_prompt_that_is_too_long_is_refused_with_the_words_that_would_be_dropped(
    registry: FilesRegistry,
) -> None:
    with pytest.raises(PromptTooLong, match="acme style") as caught:
        await settler(registry, words=3).settle(request())
    assert caught.value.reason == "PROMPT_TOO_LONG"
    assert caught.value.violations[0].field == "prompt"


async def test_prompt_that_is_too_long_is_painted_with_a_warning_where_the_caller_allows_it(
    registry: FilesRegistry,
) -> None:
    settled = (await settler(registry, words=3).settle(request(allow_truncation=True))).settled
    assert any("acme style" in warning for warning in settled.warnings)


async def test_unknown_brands_and_withdrawn_versions_are_refused(registry: FilesRegistry) -> None:
    with pytest.raises(NotFound):
        await settler(registry).settle(request(brand="nobody"))
    registry.yank(AdapterRef("acme", "look"))
    with pytest.raises(FailedPrecondition) as caught:
        await settler(registry).settle(request())
    assert caught.value.reason == "ADAPTER_YANKED"
