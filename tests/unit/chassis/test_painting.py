from dataclasses import replace
from datetime import UTC, datetime

import pytest

from looksmith.errors import FailedPrecondition, InvalidArgument
from looksmith.nouns import (
    AdapterManifest,
    AdapterUse,
    AdapterVersion,
    Brand,
    BrandLimits,
    Lineage,
    PinnedAdapter,
    Resolved,
    VersionState,
)
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb
from services.chassis.painting import PaintRequest, RecipeFacts, Settled, content_digest, settle
from services.chassis.painting_pb import recipe_from_pb, recipe_to_pb, request_from_pb

HEX, BASE = "0f" * 32, "ba" * 32
RECIPE = RecipeFacts("studio", HEX, "studio", BASE, ((128, 128),), (1, 2, 4, 8), 4)
BRAND = Brand("inkwell", default_adapters=(AdapterUse("house-style", weight=0.8),), prompt_template="{prompt}, inked")
USE = BRAND.default_adapters[0]


def resolved(
    *, family: str = "studio", base: str = BASE, state: VersionState = VersionState.READY, words: tuple[str, ...] = ()
) -> Resolved:
    lineage = Lineage(trigger_words=words)
    manifest = AdapterManifest(family, base, "peft", 108, 1, (16,), ("unet",), convolutions=False, lineage=lineage)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    return Resolved(AdapterVersion("inkwell", "house-style", 3, HEX, 10, manifest, now, state), seq=4)


def asked(**changes: object) -> PaintRequest:
    return replace(PaintRequest("inkwell", "a red mug", "r1"), **changes)  # type: ignore[arg-type]  # any field


def settled(request: PaintRequest, found: Resolved | None = None, recipe: RecipeFacts = RECIPE) -> Settled:
    return settle(request, brand=BRAND, resolved={USE: found or resolved()}, recipe=recipe)


def test_brand_and_recipe_fill_what_the_request_leaves_open() -> None:
    job = settled(asked())
    assert job.adapters == (PinnedAdapter("house-style", 3, HEX, 0.8),)
    assert (job.width, job.height, job.steps, job.guidance) == (128, 128, 4, 0.0)
    assert job.final_prompt == "a red mug, inked"
    assert settled(asked(raw_prompt=True)).final_prompt == "a red mug"


def test_trigger_words_of_the_adapters_used_go_in_front_in_the_adapters_order() -> None:
    first, second = AdapterUse("logo", weight=0.2), AdapterUse("house-style")
    known = {first: resolved(words=("acme logo",)), second: resolved(words=("thick ink", "Inked"))}
    request = asked(adapters=(first, second))
    job = settle(request, brand=BRAND, resolved=known, recipe=RECIPE)
    assert job.final_prompt == "acme logo, thick ink, a red mug, inked", "the template says the last one itself"
    swapped = settle(replace(request, adapters=(second, first)), brand=BRAND, resolved=known, recipe=RECIPE)
    assert swapped.final_prompt == "thick ink, acme logo, a red mug, inked"
    raw = settle(replace(request, raw_prompt=True), brand=BRAND, resolved=known, recipe=RECIPE)
    assert raw.final_prompt == "a red mug"
    bare = settle(asked(no_adapters=True), brand=BRAND, resolved={}, recipe=RECIPE)
    assert bare.final_prompt == "a red mug, inked"


SIZES = replace(RECIPE, sizes=((128, 128), (192, 128), (128, 192)))
WIDE = replace(BRAND, default_width=192, default_height=128)


@pytest.mark.parametrize(
    ("brand", "changes", "size"),
    [
        (WIDE, {}, (192, 128)),
        (BRAND, {}, (128, 128)),
        (WIDE, {"width": 128, "height": 192}, (128, 192)),
        (WIDE, {"width": 128}, (128, 128)),
        (WIDE, {"height": 192}, (128, 192)),
    ],
    ids=["the brand's", "the recipe's first", "the request's", "its width alone", "its height alone"],
)
def test_a_request_s_size_goes_before_the_brand_s_and_that_before_the_recipe_s(
    brand: Brand, changes: dict[str, object], size: tuple[int, int]
) -> None:
    job = settle(asked(**changes), brand=brand, resolved={USE: resolved()}, recipe=SIZES)
    assert (job.width, job.height) == size


@pytest.mark.parametrize(("size", "field"), [((768, 128), "brand.default_width"), ((192, 512), "brand.default_height")])
def test_a_brand_s_size_that_the_recipe_does_not_paint_is_refused_by_the_record_s_field(
    size: tuple[int, int], field: str
) -> None:
    brand = replace(BRAND, default_width=size[0], default_height=size[1])
    with pytest.raises(InvalidArgument, match=f"studio paints 128x128, 192x128, 128x192, not {size[0]}x") as caught:
        settle(asked(), brand=brand, resolved={USE: resolved()}, recipe=SIZES)
    assert (caught.value.violations[0].field, caught.value.reason) == (field, "SIZE_UNSUPPORTED")
    assert settle(asked(width=128), brand=brand, resolved={USE: resolved()}, recipe=SIZES).width == 128


def test_a_seed_that_is_not_named_follows_from_the_request_id() -> None:
    assert settled(asked()).seed == settled(asked()).seed
    assert settled(asked()).seed != settled(asked(request_id="r2")).seed
    assert settled(asked(seed=0)).seed == 0
    assert settled(asked(seed=2**64 - 1)).image_seed(1) == 0


def test_images_that_the_caller_holds_are_not_painted() -> None:
    assert settled(asked(count=4, images_done=frozenset({0, 2}))).images_to_paint == (1, 3)


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"prompt": " \n"}, "prompt", "PROMPT_EMPTY"),
        ({"prompt": "x" * 9000}, "prompt", "PROMPT_TOO_LONG"),
        ({"negative_prompt": "x" * 9000}, "negative_prompt", "PROMPT_TOO_LONG"),
        ({"count": 17}, "count", "COUNT_UNSUPPORTED"),
        ({"steps": 3}, "steps", "STEPS_UNSUPPORTED"),
        ({"steps": 10**6}, "steps", "STEPS_UNSUPPORTED"),
        ({"width": 100_000}, "width", "SIZE_UNSUPPORTED"),
        ({"height": 129}, "height", "SIZE_UNSUPPORTED"),
        ({"guidance": 5.0}, "guidance", "GUIDANCE_UNSUPPORTED"),
        ({"guidance": float("nan")}, "guidance", "GUIDANCE_UNSUPPORTED"),
        ({"guidance": -1.0}, "guidance", "GUIDANCE_UNSUPPORTED"),
        ({"images_done": frozenset({1})}, "images_done", "INVALID_ARGUMENT"),
        ({"request_id": "a\nb"}, "request_id", "INVALID_ARGUMENT"),
        ({"no_adapters": True, "adapters": (USE,)}, "no_adapters", "INVALID_ARGUMENT"),
    ],
)
def test_what_the_recipe_can_t_paint_is_refused_by_field(changes: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settled(asked(**changes))
    assert (caught.value.violations[0].field, caught.value.reason) == (field, reason)


@pytest.mark.parametrize(("field", "text"), [("final_prompt", "x" * 25_000), ("router", "r" * 300)])
def test_what_a_router_pins_has_bounds_too(field: str, text: str) -> None:
    message = pb.GenerateRequest(brand="inkwell", prompt="a red mug")
    setattr(message.pinned, field, text)
    with pytest.raises(InvalidArgument) as caught:
        request_from_pb(message, new_request_id="r1")
    assert caught.value.violations[0].field == f"pinned.{field}"


def test_a_brand_s_own_limit_on_images_holds() -> None:
    brand = replace(BRAND, limits=BrandLimits(max_images_per_request=2))
    with pytest.raises(InvalidArgument, match="may ask for 2 images"):
        settle(asked(count=3), brand=brand, resolved={USE: resolved()}, recipe=RECIPE)


@pytest.mark.parametrize(
    ("found", "recipe", "reason"),
    [
        (resolved(family="sdxl"), RECIPE, "FAMILY_MISMATCH"),
        (resolved(state=VersionState.YANKED), RECIPE, "ADAPTER_YANKED"),
        (resolved(base="cc" * 32), replace(RECIPE, strict_base=True), "BASE_MISMATCH"),
    ],
)
def test_an_adapter_that_must_not_run_is_refused(found: Resolved, recipe: RecipeFacts, reason: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        settled(asked(), found, recipe)
    assert caught.value.reason == reason


def test_an_adapter_of_a_sister_base_is_served_with_a_warning() -> None:
    assert len(settled(asked(), resolved(base="cc" * 32)).warnings) == 1
    assert settled(asked(), resolved(base="")).warnings == ()


def test_content_ignores_what_may_change_between_tries() -> None:
    first = settled(asked(count=2))

    def content(request: PaintRequest) -> str:
        recipe = replace(RECIPE, name=request.recipe or "studio")
        width, height = request.width or first.width, request.height or first.height
        return content_digest(request, replace(first, recipe=recipe, width=width, height=height))

    same = asked(count=2, images_done=frozenset({0}), report_steps=True, preview_every=1, omit_image_bytes=True)
    assert content(same) == content(asked(count=2))
    assert content(asked(count=2, seed=first.seed)) == content(asked(count=2))
    assert content(asked(count=2, recipe="studio")) == content(asked(count=2))
    assert content(asked(count=2, recipe="oils")) != content(asked(count=2))
    assert content(asked(count=2, width=128, height=128)) == content(asked(count=2))
    assert content(asked(count=2, width=192)) != content(asked(count=2))
    assert content(asked(count=2, prompt="a blue mug")) != content(asked(count=2))


def test_a_brand_and_a_prompt_alone_are_a_request() -> None:
    request = request_from_pb(pb.GenerateRequest(brand="inkwell", prompt="a mug"), new_request_id="made-up")
    assert request == PaintRequest("inkwell", "a mug", "made-up")


def test_malformed_fields_of_the_wire_are_named() -> None:
    for message, field in (
        (pb.GenerateRequest(prompt="a mug"), "brand"),
        (pb.GenerateRequest(brand="a/b", prompt="a mug"), "brand"),
        (
            pb.GenerateRequest(brand="b", prompt="a mug", adapters=[adapter_pb2.AdapterUse(adapter="a", weight=3)]),
            "adapters[0].weight",
        ),
    ):
        with pytest.raises(InvalidArgument) as caught:
            request_from_pb(message, new_request_id="r")
        assert caught.value.violations[0].field == field


def test_recipes_survive_the_wire() -> None:
    assert recipe_from_pb(recipe_to_pb(RECIPE)) == RECIPE
