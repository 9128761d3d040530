from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from looksmith.errors import NotFound
from looksmith.nouns import AdapterRef, Tier
from services.router.consistent_hash import rank
from services.router.errors import DrainNotConfirmed, NotWarmInTime, NoWorker, WorkerNotFound
from services.router.fleet import Fleet, Member
from services.router.members import Command, Drain, Evict, Heartbeat, Prefetch
from services.router.upkeep import TELL_AGAIN_S, Upkeep
from tests.unit.router.router_parts import DIGEST, NOON, Clock, NoConnection, acme, recipe, registration

LOOK = AdapterRef("acme", "look")
NAMES = ("w1", "w2", "w3", "w4")
ORDER = rank("acme", dict.fromkeys(NAMES, 1.0))

Obey = Callable[[str, Command], None]


class Workers:
    """Four workers that have joined, with what each was told; ``obey`` is called for every command."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fleet = Fleet(router="r1", lease_s=1000.0, clock=self.clock, now=lambda: NOON)
        self.told: list[tuple[str, Command]] = []
        self.obey: Obey = lambda _name, _command: None
        self.members: dict[str, Member] = {}
        for name in NAMES:
            self.join(name)

    def join(self, name: str, *, family: str = "studio") -> None:
        def tell(command: Command) -> None:
            self.told.append((name, command))
            self.obey(name, command)

        who = registration(name, recipes=(recipe(family=family),))
        self.members[name] = self.fleet.join(who, NoConnection(), tell=tell)
        self.says(name)

    def says(self, name: str, **told: object) -> None:
        self.fleet.heard(self.members[name], replace(Heartbeat(1, full=True), **told))  # type: ignore[arg-type]  # fields by name

    def holds(self, name: str, tier: Tier) -> None:
        self.says(name, residency={DIGEST: tier})

    async def sleep(self, seconds: float) -> None:
        self.clock.seconds += seconds

    def upkeep(self) -> Upkeep:
        return Upkeep(registry=acme(), fleet=self.fleet, clock=self.clock, sleep=self.sleep)


@pytest.fixture
def workers() -> Workers:
    return Workers()


def warms(workers: Workers, tier: Tier = Tier.HOST) -> Obey:
    return lambda name, _command: workers.holds(name, tier)


async def test_an_adapter_is_warmed_on_the_brand_s_first_two_workers_in_hash_order(workers: Workers) -> None:
    workers.obey = warms(workers)
    warm = await workers.upkeep().warm(LOOK, homes=0, timeout_s=5)
    assert workers.told == [(name, Prefetch("acme", DIGEST)) for name in ORDER[:2]]
    assert warm == tuple(sorted(ORDER[:2]))


async def test_as_many_homes_are_warmed_as_are_asked_for_or_all_there_are(workers: Workers) -> None:
    workers.obey = warms(workers, Tier.DEVICE)
    assert await workers.upkeep().warm(LOOK, homes=1, timeout_s=5) == ORDER[:1]
    assert await workers.upkeep().warm(LOOK, homes=9, timeout_s=5) == NAMES


async def test_who_holds_it_in_memory_is_told_nothing_and_named(workers: Workers) -> None:
    for name, tier in zip(ORDER, (Tier.HOST, Tier.DEVICE, Tier.DEVICE, Tier.DISK), strict=True):
        workers.holds(name, tier)
    assert await workers.upkeep().warm(LOOK, homes=2, timeout_s=5) == tuple(sorted(ORDER[:3]))
    assert workers.told == []


async def test_a_copy_on_disk_is_not_warm(workers: Workers) -> None:
    workers.obey = warms(workers, Tier.DISK)
    with pytest.raises(NotWarmInTime):
        await workers.upkeep().warm(LOOK, homes=1, timeout_s=1)


async def test_those_that_are_late_are_named_before_the_caller_gives_up(workers: Workers) -> None:
    lazy = ORDER[1]
    workers.obey = lambda name, _command: workers.holds(name, Tier.HOST) if name != lazy else None
    with pytest.raises(NotWarmInTime) as caught:
        await workers.upkeep().warm(LOOK, homes=3, timeout_s=10)
    assert caught.value.metadata == {"workers": lazy}
    assert 109 < workers.clock() < 110  # it began at 100


async def test_who_has_not_obeyed_is_told_again_after_a_while(workers: Workers) -> None:
    with pytest.raises(NotWarmInTime):
        await workers.upkeep().warm(LOOK, homes=1, timeout_s=2.5 * TELL_AGAIN_S)
    assert workers.told == [(ORDER[0], Prefetch("acme", DIGEST))] * 3


async def test_the_next_in_line_is_warmed_in_place_of_one_that_leaves_meanwhile(workers: Workers) -> None:
    def obey(name: str, command: Command) -> None:
        if name == ORDER[0]:
            workers.fleet.leave(workers.members[name], "test")
        else:
            workers.holds(name, Tier.HOST)

    workers.obey = obey
    assert await workers.upkeep().warm(LOOK, homes=2, timeout_s=5) == tuple(sorted(ORDER[1:3]))


async def test_a_worker_that_drains_or_serves_another_family_is_no_home(workers: Workers) -> None:
    workers.says(ORDER[0], draining=True)
    workers.join(ORDER[1], family="sdxl")
    workers.obey = warms(workers)
    assert await workers.upkeep().warm(LOOK, homes=2, timeout_s=5) == tuple(sorted(ORDER[2:]))


async def test_warming_without_a_worker_of_the_family_is_refused_at_once(workers: Workers) -> None:
    for name in NAMES:
        workers.join(name, family="sdxl")
    with pytest.raises(NoWorker, match="family 'studio'"):
        await workers.upkeep().warm(LOOK, homes=0, timeout_s=5)


async def test_what_the_registry_does_not_know_is_not_warmed(workers: Workers) -> None:
    with pytest.raises(NotFound):
        await workers.upkeep().warm(AdapterRef("acme", "other"), homes=0, timeout_s=5)
    assert workers.told == []


async def test_drain_answers_with_the_jobs_left_once_the_worker_takes_no_more(workers: Workers) -> None:
    def obey(name: str, command: Command) -> None:
        workers.says(name, draining=True, queued_jobs=2, running_jobs=1)

    workers.says("w2", queued_jobs=7)
    workers.obey = obey
    assert await workers.upkeep().drain("w2", "a new driver", timeout_s=5) == 3
    assert workers.told == [("w2", Drain("a new driver"))]


async def test_drain_that_is_not_confirmed_in_time_says_so(workers: Workers) -> None:
    with pytest.raises(DrainNotConfirmed):
        await workers.upkeep().drain("w2", "", timeout_s=5)
    assert 104 < workers.clock() < 105


async def test_drain_of_a_worker_that_is_not_there_or_leaves_is_not_found(workers: Workers) -> None:
    with pytest.raises(WorkerNotFound):
        await workers.upkeep().drain("w9", "", timeout_s=5)
    workers.obey = lambda name, _command: workers.fleet.leave(workers.members[name], "test")
    with pytest.raises(WorkerNotFound):
        await workers.upkeep().drain("w2", "", timeout_s=5)


async def test_evict_tells_one_worker_or_all_of_them(workers: Workers) -> None:
    assert workers.upkeep().evict(DIGEST, worker="w3") == ("w3",)
    assert workers.told == [("w3", Evict(DIGEST))]
    assert workers.upkeep().evict(DIGEST, worker="") == NAMES
    with pytest.raises(WorkerNotFound):
        workers.upkeep().evict(DIGEST, worker="w9")
