from dataclasses import replace
from datetime import timedelta

import pytest

from looksmith.errors import FailedPrecondition, InvalidField, LooksmithError, NotFound
from looksmith.nouns import AdapterRef, AdapterUse, Brand
from services.chassis.painting import Pinned, Settled, derived_seed
from services.registry.client import FakeRegistryClient
from services.router.admission import Admission, find_recipe
from services.router.errors import NoWorker, RecipeAmbiguous, RecipeNotFound, RequestIdReused
from services.router.fleet import Fleet
from services.router.request_memory import RequestMemory
from tests.unit.registry.parts import header_for
from tests.unit.router.router_parts import (
    DIGEST,
    NOON,
    Changes,
    Clock,
    KnownBrands,
    NoConnection,
    acme,
    recipe,
    registration,
    request,
    resolved,
    snapshot,
    view,
)


@pytest.fixture
def brands() -> KnownBrands:
    return acme()


@pytest.fixture
def fleet() -> Fleet:
    fleet = Fleet(router="r1", lease_s=3, clock=Clock(), now=lambda: NOON)
    fleet.join(registration(), NoConnection())
    return fleet


@pytest.fixture
def admission(brands: KnownBrands, fleet: Fleet) -> Admission:
    return Admission(registry=brands, fleet=fleet, memory=RequestMemory(clock=Clock()))


async def test_settles_what_the_request_leaves_open(admission: Admission) -> None:
    settled = (await admission.admit(request())).settled
    assert (settled.recipe.name, settled.steps, settled.width) == ("studio", 4, 64)
    assert (settled.seed, settled.final_prompt) == (derived_seed("r1"), "a red kite, in acme's look")
    assert [(a.adapter, a.version, a.digest) for a in settled.adapters] == [("look", 1, DIGEST)]


async def test_caller_may_not_pin(admission: Admission) -> None:
    with pytest.raises(InvalidField) as caught:
        await admission.admit(request(pinned=Pinned((), "", "", 1, "r9")))
    assert caught.value.violations[0].field == "pinned"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"brand": "nobody"}, "BRAND_NOT_FOUND"),
        ({"adapters": (AdapterUse("lost"),)}, "ALIAS_NOT_FOUND"),
        ({"recipe": "oils"}, "RECIPE_NOT_FOUND"),
        ({"steps": 3}, "STEPS_UNSUPPORTED"),
        ({"width": 65}, "SIZE_UNSUPPORTED"),
    ],
)
async def test_refuses_what_cannot_be_painted(admission: Admission, changes: dict[str, Changes], reason: str) -> None:
    with pytest.raises(LooksmithError) as caught:
        await admission.admit(request(**changes))
    assert caught.value.reason == reason


async def test_refused_request_does_not_use_its_id_up(admission: Admission) -> None:
    with pytest.raises(InvalidField):
        await admission.admit(request(steps=3))
    await admission.admit(request(steps=4))


async def test_same_content_is_a_retry_and_other_content_is_refused(admission: Admission) -> None:
    first = await admission.admit(request())
    second = await admission.admit(request(seed=first.settled.seed, report_steps=True, images_done=frozenset({0})))
    assert first.this_try.superseded
    assert not second.this_try.superseded
    with pytest.raises(RequestIdReused):
        await admission.admit(request(prompt="a blue kite"))
    assert not second.this_try.superseded


async def test_a_withdrawn_version_is_refused_as_the_registry_says_but_not_to_a_retry_that_pinned_it_before() -> None:
    registry, data, clock = FakeRegistryClient(), b"not a LoRA", Clock()
    await registry.put_brand(Brand("acme", default_adapters=(AdapterUse("look"),)))
    await registry.publish(header_for(data, adapter="look", family="studio"), [data])
    fleet = Fleet(router="r1", lease_s=3, clock=clock, now=lambda: NOON)
    fleet.join(registration(), NoConnection())
    admission = Admission(registry=registry, fleet=fleet, memory=RequestMemory(clock=clock))
    accepted = await admission.admit(request("r1"))
    await registry.yank("acme", "look", 1, force=True, reason="the old logo")
    assert (await admission.admit(request("r1"))).settled.adapters == accepted.settled.adapters
    with pytest.raises(FailedPrecondition) as caught:
        await admission.admit(request("r2"))
    assert (caught.value.reason, caught.value.metadata) == ("ADAPTER_YANKED", {"adapter": "acme/look@1"})


async def test_retry_keeps_its_version_when_the_alias_has_moved(admission: Admission, brands: KnownBrands) -> None:
    await admission.admit(request())
    brands.versions[AdapterRef("acme", "look")] = resolved(version=2, digest="c" * 64)
    for same in (
        request(),
        request(adapters=(AdapterUse("look", 1),)),
        request(adapters=(AdapterUse("look", DIGEST),)),
    ):
        assert (await admission.admit(same)).settled.adapters[0].version == 1
    assert (await admission.admit(request("r2"))).settled.adapters[0].version == 2
    with pytest.raises(RequestIdReused):
        await admission.admit(request(adapters=(AdapterUse("look", weight=0.5),)))


async def test_retry_may_spell_out_all_that_was_settled_as_a_client_does_that_resumes(
    admission: Admission, brands: KnownBrands
) -> None:
    first = (await admission.admit(request())).settled
    uses = tuple(AdapterUse(a.adapter, a.version, a.weight) for a in first.adapters)
    again = request(seed=first.seed, recipe=first.recipe.name, adapters=uses, width=first.width, height=first.height)
    assert replace((await admission.admit(again)).settled, request=first.request) == first
    brands.brands["plain"] = Brand("plain")
    first = (await admission.admit(request("r2", brand="plain"))).settled
    again = request("r2", brand="plain", seed=first.seed, recipe=first.recipe.name, no_adapters=True)
    assert replace((await admission.admit(again)).settled, request=first.request) == first


async def test_retry_keeps_its_recipe_when_the_brand_has_another_now(
    admission: Admission, fleet: Fleet, brands: KnownBrands
) -> None:
    await admission.admit(request())
    fleet.join(registration("w2", recipes=(recipe("oils"),)), NoConnection())
    brands.brands["acme"] = replace(brands.brands["acme"], recipe="oils")
    assert (await admission.admit(request())).settled.recipe.name == "studio"
    assert (await admission.admit(request("r2"))).settled.recipe.name == "oils"
    with pytest.raises(RequestIdReused):
        await admission.admit(request(recipe="oils"))


async def test_retry_keeps_its_size_when_the_brand_has_another_now(
    admission: Admission, fleet: Fleet, brands: KnownBrands
) -> None:
    def default_size(width: int, height: int) -> None:
        brands.brands["acme"] = replace(brands.brands["acme"], default_width=width, default_height=height)

    def size(settled: Settled) -> tuple[int, int]:
        return settled.width, settled.height

    fleet.join(registration(recipes=(recipe(sizes=((64, 64), (96, 64))),)), NoConnection())
    default_size(96, 64)
    assert size((await admission.admit(request())).settled) == (96, 64)
    default_size(64, 64)
    assert size((await admission.admit(request())).settled) == (96, 64)
    assert size((await admission.admit(request("r2"))).settled) == (64, 64)
    default_size(1024, 1024)
    assert size((await admission.admit(request())).settled) == (96, 64), "though the recipe does not paint the new one"
    with pytest.raises(RequestIdReused):
        await admission.admit(request(width=64))


async def test_tells_since_when_the_registry_answers_from_memory(admission: Admission, brands: KnownBrands) -> None:
    ref, other = AdapterRef("acme", "look"), AdapterRef("acme", "other")
    brands.versions[ref] = replace(resolved(), stale_since=NOON + timedelta(minutes=1))
    brands.versions[other] = replace(resolved(adapter="other", digest="c" * 64), stale_since=NOON)
    both = request(adapters=(AdapterUse("look"), AdapterUse("other")))
    assert (await admission.admit(both)).stale_since == NOON


async def test_preview_remembers_nothing(admission: Admission) -> None:
    await admission.preview(request())
    await admission.admit(request(prompt="a blue kite"))


def test_only_recipe_of_the_fleet_is_the_default() -> None:
    assert find_recipe("", snapshot(view("w1"), view("w2"))) == recipe()


def test_recipe_must_be_named_when_several_are_served() -> None:
    two = snapshot(view(registration=registration(recipes=(recipe(), recipe("oils")))))
    assert find_recipe("oils", two) == recipe("oils")
    with pytest.raises(RecipeAmbiguous, match="oils, studio"):
        find_recipe("", two)


def test_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeNotFound, match=r"'oils'.*studio") as caught:
        find_recipe("oils", snapshot(view()))
    assert isinstance(caught.value, NotFound)


def test_empty_fleet_cannot_tell_what_it_serves() -> None:
    with pytest.raises(NoWorker):
        find_recipe("oils", snapshot())


def test_recipe_that_most_workers_serve_stands_for_its_name() -> None:
    new = recipe(digest="9" * 64)
    fleet = snapshot(view("w1", registration=registration("w1", recipes=(new,))), view("w2"), view("w3"))
    assert find_recipe("studio", fleet) == recipe()
