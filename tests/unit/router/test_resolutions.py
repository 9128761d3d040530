"""A registry that answers, is lost, hangs and comes back, while a clock is turned by hand."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from looksmith.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    LooksmithError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from looksmith.nouns import AdapterRef, AdapterUse, Brand, Resolved
from services.registry.client import FakeRegistryClient
from services.router.admission import Admission
from services.router.errors import REGISTRY_AGAIN_S, RegistryLost
from services.router.fleet import Fleet
from services.router.ports import Registry
from services.router.request_memory import RequestMemory
from services.router.resolutions import RememberingRegistry
from tests.unit.registry.parts import Clock, header_for, surroundings
from tests.unit.router.router_parts import NoConnection, registration, request

LOOK = AdapterRef("acme", "look")
REFUSED = Unavailable("connection refused")


@dataclass
class Line:
    """The way to a registry. What it ``says`` comes instead of an answer; a jammed one says nothing at all."""

    registry: Registry
    says: LooksmithError | None = None
    jammed: bool = False
    asked: int = 0

    async def get_brand(self, name: str) -> Brand:
        await self._pass()
        return await self.registry.get_brand(name)

    async def resolve(self, ref: AdapterRef) -> Resolved:
        await self._pass()
        return copy.deepcopy(await self.registry.resolve(ref))  # as it comes over a network: anew each time

    async def _pass(self) -> None:
        self.asked += 1
        if self.jammed:
            await asyncio.Event().wait()
        if self.says:
            raise self.says


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.registry = FakeRegistryClient(around=surroundings(self.clock))
        self.line = Line(self.registry)

    def remembering(self, *, patience_s: float = 30.0, brands: int = 10, references: int = 30) -> RememberingRegistry:
        return RememberingRegistry(
            registry=self.line,
            clock=self.clock.monotonic,
            now=self.clock.wall,
            patience_s=patience_s,
            brands=brands,
            references=references,
        )

    async def furnish(self, *names: str, versions: int = 2) -> None:
        """Brands with one adapter; its first version is in production."""
        for name in names:
            await self.registry.put_brand(Brand(name, default_adapters=(AdapterUse("look"),)))
            for number in range(1, versions + 1):
                data = f"version {number} of {name}".encode()
                header = header_for(data, brand=name, adapter="look", family="studio")
                await self.registry.publish(header, [data])

    def admission(self, registry: Registry) -> Admission:
        clock = self.clock.monotonic
        fleet = Fleet(router="r1", lease_s=1e6, clock=clock, now=self.clock.wall)
        fleet.join(registration(), NoConnection())
        return Admission(registry=registry, fleet=fleet, memory=RequestMemory(clock=clock))


@pytest.fixture
async def world() -> World:
    world = World()
    await world.furnish("acme", "acme-too", "zenith")
    return world


async def outcome(question: Awaitable[Brand | Resolved]) -> object:
    try:
        return await question
    except LooksmithError as error:
        return type(error), error.reason, error.message, error.metadata, error.retry_after_s


QUESTIONS: dict[str, Callable[[Registry], Awaitable[Brand | Resolved]]] = {
    "a brand": lambda port: port.get_brand("acme"),
    "no brand": lambda port: port.get_brand("nobody"),
    "an alias": lambda port: port.resolve(LOOK),
    "a number": lambda port: port.resolve(AdapterRef("acme", "look", 1)),
    "a yanked number": lambda port: port.resolve(AdapterRef("acme", "look", 2)),
    "no number": lambda port: port.resolve(AdapterRef("acme", "look", 9)),
    "no alias": lambda port: port.resolve(AdapterRef("acme", "look", "canary")),
    "no digest": lambda port: port.resolve(AdapterRef("acme", "look", "0" * 64)),
    "no adapter": lambda port: port.resolve(AdapterRef("acme", "other")),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_keeps_the_contract_of_the_registry_that_it_asks(world: World, question: str) -> None:
    asked = QUESTIONS[question]
    remembering = world.remembering()
    before = await outcome(asked(world.registry))
    assert await outcome(asked(remembering)) == before
    await world.registry.yank("acme", "look", 2, reason="the old logo")
    world.clock.seconds += 5
    assert await outcome(asked(remembering)) == await outcome(asked(world.registry))
    world.registry.store.reachable = False
    await outcome(asked(world.registry))  # from here on it knows that its store is down
    assert await outcome(asked(remembering)) == await outcome(asked(world.registry))


async def test_through_ten_minutes_without_a_registry_resolved_brands_paint_and_say_since_when(world: World) -> None:
    admission = world.admission(world.remembering())
    brands = ("acme", "zenith")
    for brand in brands:
        await admission.admit(request(f"{brand} before", brand=brand))
    confirmed = world.clock.wall()
    world.line.says, world.line.asked = REFUSED, 0

    for second in range(1, 601):
        world.clock.seconds += 1
        for brand in brands:
            admitted = await admission.admit(request(f"{brand} {second}", brand=brand))
            assert admitted.settled.adapters[0].version == 1
            assert admitted.stale_since == confirmed
    assert world.line.asked == 600, "one question a second, whoever asks"

    for unresolved in (request("r1", brand="acme-too"), request("r2", adapters=(AdapterUse("other"),))):
        with pytest.raises(RegistryLost, match="connection refused") as caught:
            await admission.admit(unresolved)
        assert caught.value.retry_after_s

    await world.registry.promote(AdapterRef("acme", "look", 2))
    world.line.says = None
    world.clock.seconds += REGISTRY_AGAIN_S
    admitted = await admission.admit(request("after"))
    assert (admitted.settled.adapters[0].version, admitted.stale_since) == (2, None)


async def test_after_a_failure_memory_answers_for_a_second_without_asking(world: World) -> None:
    remembering = world.remembering()
    answer = await remembering.resolve(LOOK)
    world.line.says, world.line.asked = REFUSED, 0
    stale = replace(answer, stale_since=world.clock.wall())
    assert await remembering.resolve(LOOK) == stale
    world.clock.seconds += REGISTRY_AGAIN_S * 0.9
    assert await remembering.resolve(LOOK) == stale
    assert world.line.asked == 1
    world.clock.seconds += REGISTRY_AGAIN_S
    world.line.says = None
    assert await remembering.resolve(LOOK) == answer


async def test_a_registry_that_hangs_is_waited_for_once(world: World) -> None:
    remembering = world.remembering(patience_s=0.05)
    await remembering.resolve(LOOK)
    world.line.jammed, world.line.asked = True, 0
    async with asyncio.timeout(5):
        assert (await remembering.resolve(LOOK)).stale_since
        assert (await remembering.resolve(LOOK)).stale_since
        assert world.line.asked == 1
        with pytest.raises(RegistryLost, match=r"no answer within 0\.05 s"):
            await remembering.resolve(AdapterRef("zenith", "look"))


async def test_nobody_waits_with_the_one_who_asks_a_lost_registry_again(world: World) -> None:
    remembering = world.remembering(patience_s=30)
    await remembering.resolve(LOOK)
    world.line.says = REFUSED
    await remembering.resolve(LOOK)
    world.line.jammed, world.line.asked = True, 0
    world.clock.seconds += REGISTRY_AGAIN_S
    asking = asyncio.create_task(remembering.resolve(LOOK))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert (await remembering.resolve(LOOK)).stale_since
    assert world.line.asked == 1
    asking.cancel()


@pytest.mark.parametrize("error", [REFUSED, DeadlineExceeded("too late"), Cancelled("it is stopping")])
async def test_whatever_grpc_says_of_a_lost_registry_has_one_name(world: World, error: LooksmithError) -> None:
    remembering = world.remembering()
    await remembering.get_brand("acme")
    world.line.says = error
    assert (await remembering.get_brand("acme")).name == "acme"
    with pytest.raises(RegistryLost, match=error.message) as caught:
        await remembering.get_brand("zenith")
    assert caught.value.retry_after_s


async def test_what_the_registry_forbids_is_not_answered_from_memory_and_not_forgotten(world: World) -> None:
    remembering = world.remembering()
    await remembering.resolve(LOOK)
    world.line.says = PermissionDenied("not with this token")
    with pytest.raises(PermissionDenied):
        await remembering.resolve(LOOK)
    world.line.says = REFUSED
    assert (await remembering.resolve(LOOK)).version.version == 1


async def test_an_adapter_is_known_by_number_and_digest_to_whoever_resumes_here(world: World) -> None:
    remembering = world.remembering()
    version = (await remembering.resolve(LOOK)).version
    world.line.says = REFUSED
    for pick in (version.version, version.digest):
        assert (await remembering.resolve(replace(LOOK, pick=pick))).version == version


@pytest.mark.parametrize("asked_as", ["alias", "number", "digest"])
async def test_a_version_that_was_yanked_is_forgotten_by_all_its_names(world: World, asked_as: str) -> None:
    remembering = world.remembering()
    version = (await remembering.resolve(LOOK)).version
    refs = {"alias": LOOK, "number": replace(LOOK, pick=1), "digest": replace(LOOK, pick=version.digest)}
    await world.registry.yank("acme", "look", 1, force=True, reason="the old logo")
    with pytest.raises(FailedPrecondition):
        await remembering.resolve(refs[asked_as])
    world.line.says = REFUSED
    for ref in refs.values():
        with pytest.raises(RegistryLost):
            await remembering.resolve(ref)


async def test_a_version_that_an_alias_has_moved_to_and_that_was_yanked_is_forgotten_too(world: World) -> None:
    remembering = world.remembering()
    second = replace(LOOK, pick=2)
    for ref in (LOOK, second):
        await remembering.resolve(ref)
    await world.registry.promote(second)
    await world.registry.yank("acme", "look", 2, force=True, reason="the wrong logo")
    with pytest.raises(FailedPrecondition):
        await remembering.resolve(LOOK)
    world.line.says = REFUSED
    for ref in (LOOK, second):
        with pytest.raises(RegistryLost):
            await remembering.resolve(ref)


async def test_an_erased_brand_is_forgotten_with_its_adapters_and_no_other_is(world: World) -> None:
    remembering = world.remembering()
    for brand in ("acme", "acme-too"):
        await remembering.get_brand(brand)
        await remembering.resolve(AdapterRef(brand, "look"))
    await world.registry.delete_brand("acme", confirm_name="acme")
    with pytest.raises(LooksmithError, match="acme"):
        await remembering.get_brand("acme")
    world.line.says = REFUSED
    for question in (remembering.get_brand("acme"), remembering.resolve(LOOK)):
        with pytest.raises(RegistryLost):
            await question
    await remembering.get_brand("acme-too")
    await remembering.resolve(AdapterRef("acme-too", "look"))


async def test_a_version_that_is_not_found_is_forgotten_by_all_its_names_though_the_brand_is_there_anew(
    world: World,
) -> None:
    remembering = world.remembering()
    version = (await remembering.resolve(LOOK)).version
    await world.registry.delete_brand("acme", confirm_name="acme")
    await world.registry.put_brand(Brand("acme"))
    with pytest.raises(NotFound):
        await remembering.resolve(replace(LOOK, pick=version.digest))
    world.line.says = REFUSED
    for pick in ("production", version.version, version.digest):
        with pytest.raises(RegistryLost):
            await remembering.resolve(replace(LOOK, pick=pick))


async def test_what_the_registry_said_to_be_stale_is_as_stale_when_it_is_lost_too(world: World) -> None:
    remembering = world.remembering()
    await remembering.resolve(LOOK)
    confirmed = world.clock.wall()
    world.registry.store.reachable = False
    world.clock.seconds += 60
    assert (await remembering.resolve(LOOK)).stale_since == confirmed
    world.clock.seconds += 60
    world.line.says = REFUSED
    assert (await remembering.resolve(LOOK)).stale_since == confirmed


async def test_a_replica_that_knows_nothing_without_its_store_is_helped_out_but_asked_for_all_else(
    world: World,
) -> None:
    remembering = world.remembering()
    await remembering.resolve(LOOK)
    confirmed = world.clock.wall()
    restarted = FakeRegistryClient(around=surroundings(world.clock))
    restarted.store.reachable = False
    world.line.registry, world.line.asked = restarted, 0
    world.clock.seconds += 60
    for _ in range(2):
        assert (await remembering.resolve(LOOK)).stale_since == confirmed
    with pytest.raises(Unavailable) as caught:
        await remembering.resolve(AdapterRef("zenith", "look"))
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert world.line.asked == 3


async def test_the_least_recently_used_are_forgotten_when_memory_is_full(world: World) -> None:
    remembering = world.remembering(brands=2, references=6)
    for brand in ("acme", "zenith", "acme", "acme-too"):
        await remembering.get_brand(brand)
        await remembering.resolve(AdapterRef(brand, "look"))
    world.line.says = REFUSED
    for brand in ("acme", "acme-too"):
        await remembering.get_brand(brand)
        await remembering.resolve(AdapterRef(brand, "look"))
    for question in (remembering.get_brand("zenith"), remembering.resolve(AdapterRef("zenith", "look"))):
        with pytest.raises(RegistryLost):
            await question


async def test_requests_of_one_version_share_one_copy_of_it(world: World) -> None:
    await world.furnish("acme")
    registry = world.remembering()
    first, second = [await registry.resolve(LOOK) for _ in range(2)]
    assert first.version is second.version
    await world.registry.promote(replace(LOOK, pick=2))
    third = await registry.resolve(LOOK)
    assert third.version.version == 2
    assert third.version is not first.version
