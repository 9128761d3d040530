"""Which stores a probe accuses, and of what; and what a registry then does for its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from structlog.testing import capture_logs

from looksmith.errors import FailedPrecondition, Unavailable
from looksmith.nouns import AdapterRef, Brand
from services.registry import conformance, gate, layout
from services.registry.client import RegistryClient
from services.registry.compose import WRITES, registry_on
from services.registry.conformance import LEFTOVER_AGE, Findings, Rule, probe, race_fault
from services.registry.errors import StoreNotConforming, StoreNotProbed, StoreUnavailable
from services.registry.gate import GatedStore
from services.registry.object_store import Creation, InMemoryObjectStore, ObjectStore
from tests.unit.registry.parts import (
    TABLE,
    Clock,
    FaultyStore,
    a_core_with_brand,
    header_for,
    lora_file,
    publish,
    surroundings,
)
from tests.unit.registry.test_client import SETTINGS

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CREATED, EXISTS, UNKNOWN = Creation.CREATED, Creation.EXISTS, Creation.UNKNOWN


class IgnoresTheCondition(InMemoryObjectStore):
    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        await self._arrive()
        self.objects[key] = data
        return CREATED


class SaysExistsAndOverwrites(InMemoryObjectStore):
    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        outcome = await super().create_if_absent(key, data)
        self.objects[key] = data
        return outcome


class TellsEveryWriterThatItWon(InMemoryObjectStore):
    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        await super().create_if_absent(key, data)
        return CREATED


class LooksBeforeItLeaps(InMemoryObjectStore):
    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        await self._arrive()
        if key in self.objects:
            return EXISTS
        await asyncio.sleep(0)
        self.objects[key] = data
        return CREATED


class ListsLate(InMemoryObjectStore):
    """A listing shows what there was at the listing before."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        shown, self._shown = self._shown, {*self.objects}
        return [key for key in await super().keys(prefix, start_after=start_after, limit=limit) if key in shown]


class ListsFromTheStart(InMemoryObjectStore):
    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        return await super().keys(prefix, limit=limit)


class ReadsStale(InMemoryObjectStore):
    """A read answers what the read before it should have."""

    def __init__(self) -> None:
        super().__init__()
        self._cached: dict[str, bytes | None] = {}

    async def get(self, key: str) -> bytes | None:
        now = await super().get(key)
        before = self._cached.get(key, now)
        self._cached[key] = now
        return before


class MeasuresStale(InMemoryObjectStore):
    """The size of an object is what it was when someone first asked."""

    def __init__(self) -> None:
        super().__init__()
        self._cached: dict[str, int | None] = {}

    async def size(self, key: str) -> int | None:
        return self._cached.setdefault(key, await super().size(key))


class IgnoresRanges(InMemoryObjectStore):
    def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        return super().stream(key)


class KeepsWhatIsDeleted(InMemoryObjectStore):
    async def delete(self, key: str) -> None:
        await self._arrive()


class LosesAnswers(InMemoryObjectStore):
    """One creation in five is undecided; half of those have happened."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        drawn = self._random.random()
        if drawn < 0.1:
            return UNKNOWN
        outcome = await super().create_if_absent(key, data)
        return UNKNOWN if drawn < 0.2 else outcome


class KeepsWritersWaiting(InMemoryObjectStore):
    """One of the writers of a race gets through long after the others."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        if "race" in key and data == b"writer 3":
            self.waiting += 1
            await asyncio.sleep(0.3)
            self.waiting -= 1
        return await super().create_if_absent(key, data)


class NeverDecides(InMemoryObjectStore):
    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        return UNKNOWN


class AnswersConflict(InMemoryObjectStore):
    """Whoever writes a key while another does is told nothing certain, be it winner or loser, as AWS does with 409."""

    def __init__(self) -> None:
        super().__init__()
        self._at_it: dict[str, int] = {}

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        self._at_it[key] = self._at_it.get(key, 0) + 1
        outcome = await super().create_if_absent(key, data)
        contested = self._at_it[key] > 1
        await asyncio.sleep(0)
        self._at_it[key] -= 1
        return UNKNOWN if contested else outcome


async def probed(store: ObjectStore, clock: Clock | None = None) -> Findings:
    around = surroundings(clock)
    async with probe(store, new_id=around.new_id, wall_clock=around.wall_clock, sleep=around.sleep) as findings:
        return findings


async def learned(store: GatedStore) -> Findings:
    async with store.learning() as findings:
        return findings


@pytest.mark.parametrize(
    ("store", "rules"),
    [
        (IgnoresTheCondition, {Rule.CREATE_IF_ABSENT, Rule.ONE_WINNER}),
        (SaysExistsAndOverwrites, {Rule.CREATE_IF_ABSENT, Rule.ONE_WINNER}),
        (TellsEveryWriterThatItWon, {Rule.CREATE_IF_ABSENT, Rule.ONE_WINNER}),
        (LooksBeforeItLeaps, {Rule.ONE_WINNER}),
        (ListsLate, {Rule.LISTING}),
        (ListsFromTheStart, {Rule.LISTING}),
        (ReadsStale, {Rule.READ_AFTER_WRITE}),
        (MeasuresStale, {Rule.READ_AFTER_WRITE}),
        (IgnoresRanges, {Rule.RANGES}),
        (KeepsWhatIsDeleted, {Rule.DELETION}),
    ],
)
async def test_a_dishonest_store_is_found_out_by_the_rule_it_breaks_and_by_no_other(
    store: type[InMemoryObjectStore], rules: set[Rule]
) -> None:
    findings = await probed(store())
    assert {breach.rule for breach in findings.broken} == rules
    assert {*findings.held} == {*Rule} - rules
    assert not findings.conforming


async def test_a_store_that_keeps_its_contract_is_never_accused() -> None:
    for _ in range(20):
        assert await probed(InMemoryObjectStore()) == Findings(held=tuple(Rule), broken=())


async def test_a_store_that_sometimes_does_not_know_is_never_accused() -> None:
    for seed in range(50):
        assert await probed(LosesAnswers(seed)) == Findings(held=tuple(Rule), broken=()), seed
    assert await probed(AnswersConflict()) == Findings(held=tuple(Rule), broken=())


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ((CREATED, CREATED, EXISTS), b"0"),
        ((CREATED, EXISTS, UNKNOWN), b"2"),
        ((CREATED, EXISTS, EXISTS), None),
        ((EXISTS, EXISTS, EXISTS), None),
        ((EXISTS, UNKNOWN, EXISTS), b"0"),
        ((UNKNOWN, UNKNOWN, UNKNOWN), b"nobody's"),
    ],
)
def test_a_race_is_faulty_where_what_was_told_and_what_was_read_cannot_both_be_true(
    outcomes: tuple[Creation, ...], found: bytes | None
) -> None:
    assert race_fault({b"%d" % writer: outcome for writer, outcome in enumerate(outcomes)}, found)


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ((EXISTS, CREATED, UNKNOWN), b"1"),
        ((EXISTS, UNKNOWN, UNKNOWN), b"2"),
        ((UNKNOWN, UNKNOWN, UNKNOWN), None),
    ],
)
def test_a_race_is_not_faulty_where_a_lost_answer_explains_it(
    outcomes: tuple[Creation, ...], found: bytes | None
) -> None:
    assert race_fault({b"%d" % writer: outcome for writer, outcome in enumerate(outcomes)}, found) == ""


async def test_a_store_that_cannot_be_reached_is_not_accused() -> None:
    store = InMemoryObjectStore()
    store.reachable = False
    with pytest.raises(StoreUnavailable):
        await probed(store)


async def test_a_store_that_leaves_every_creation_undecided_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="undecided"):
        await probed(NeverDecides())


async def test_what_was_seen_broken_stays_so_when_the_store_is_lost_on_the_way() -> None:
    store = FaultyStore(IgnoresTheCondition())
    store.before = unavailable("size")
    findings = await probed(store)
    assert [breach.rule for breach in findings.broken] == [Rule.CREATE_IF_ABSENT, Rule.ONE_WINNER]
    assert findings.held == ()


# What is left


@pytest.mark.parametrize("kind", [InMemoryObjectStore, IgnoresTheCondition, LooksBeforeItLeaps, ListsLate, ReadsStale])
async def test_a_probe_leaves_what_was_there_and_nothing_else(kind: type[InMemoryObjectStore]) -> None:
    store = kind()
    await a_core_with_brand(store)
    before = dict(store.objects)
    assert before
    await probed(store)
    assert store.objects == before


async def test_a_probe_that_fails_leaves_no_key() -> None:
    store = FaultyStore(inner := InMemoryObjectStore())
    store.before = unavailable("size")
    with pytest.raises(StoreUnavailable):
        await probed(store)
    assert "create_if_absent" in store.calls
    assert inner.objects == {}


async def test_a_probe_that_is_cancelled_leaves_no_key() -> None:
    store = InMemoryObjectStore()
    probing = asyncio.create_task(probed(store))
    while len(store.objects) < 3:  # noqa: ASYNC110  # a store tells nobody of what it holds
        await asyncio.sleep(0)
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert store.objects == {}


async def test_a_store_that_keeps_losers_waiting_is_judged_without_them_and_tidied_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conformance, "GRACE_S", 0.01)
    store, around = KeepsWritersWaiting(), surroundings()
    async with probe(store, new_id=around.new_id, wall_clock=around.wall_clock, sleep=around.sleep) as findings:
        assert store.waiting == conformance.RACES
        assert findings == Findings(held=tuple(Rule), broken=())
    assert store.waiting == 0
    assert store.objects == {}


async def test_only_what_an_old_probe_left_behind_is_deleted() -> None:
    clock, store = Clock(), InMemoryObjectStore()
    clock.seconds = 10_000.0
    dead = layout.probe(clock.wall() - LEFTOVER_AGE - timedelta(seconds=2), "dead")
    alive = layout.probe(clock.wall() - LEFTOVER_AGE + timedelta(seconds=60), "alive")
    odd = f"{layout.PROBES}not-a-probe-"
    store.objects = {f"{dead}race-0": b"-", f"{dead}log-1": b"-", f"{alive}race-0": b"-", f"{odd}x": b"-"}
    await probed(store, clock)
    assert {*store.objects} == {f"{alive}race-0", f"{odd}x"}


# The gate


async def test_a_write_waits_for_the_first_probe_and_then_passes() -> None:
    store = GatedStore(InMemoryObjectStore(), around=surroundings())
    writing = asyncio.create_task(store.create_if_absent("k", b"-"))
    await asyncio.sleep(0.02)
    assert not writing.done()
    await learned(store)
    async with asyncio.timeout(1):
        assert await writing is CREATED
    assert await store.get("k") == b"-"


async def test_a_write_waits_no_longer_than_its_caller_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "FIRST_PROBE_S", 0.02)
    store = GatedStore(inner := InMemoryObjectStore(), around=surroundings())
    with pytest.raises(StoreNotProbed) as caught:
        await store.create_if_absent("k", b"-")
    assert caught.value.retry_after_s == gate.AGAIN_S
    assert inner.objects == {}


async def test_every_write_is_refused_on_a_dishonest_store_and_no_read() -> None:
    inner = IgnoresTheCondition()
    inner.objects["p/k"] = b"0123"
    store = GatedStore(inner, around=surroundings())
    await learned(store)
    for write in (store.create_if_absent("p/new", b"-"), store.put("p/k", b"-"), store.delete("p/k")):
        with pytest.raises(StoreNotConforming, match="create-if-absent: a second creation"):
            await write
    assert inner.objects == {"p/k": b"0123"}
    assert [piece async for piece in store.stream("p/k", offset=1, limit=2)] == [b"12"]
    assert (await store.get("p/k"), await store.size("p/k")) == (b"0123", 4)
    assert (await store.keys("p/"), await store.folders("")) == (["p/k"], ["p"])


async def test_an_odd_answer_does_not_end_the_probing() -> None:
    store = FaultyStore(InMemoryObjectStore())
    faults = iter([ValueError("what is this"), StoreUnavailable("down")])

    def fail(name: str, number: int) -> None:
        for fault in faults:
            raise fault

    store.before = fail
    assert (await learned(GatedStore(store, around=surroundings()))).conforming


@pytest.mark.parametrize(
    ("kind", "value", "event"),
    [(InMemoryObjectStore, 1, "store.conforms"), (LooksBeforeItLeaps, 0, "store.not_conforming")],
)
async def test_what_was_found_is_in_the_log_and_in_the_metrics(
    monkeypatch: pytest.MonkeyPatch, kind: type[InMemoryObjectStore], value: int, event: str
) -> None:
    reader = InMemoryMetricReader()
    monkeypatch.setattr(gate, "conforming", MeterProvider([reader]).get_meter("test").create_gauge("conforming"))
    with capture_logs() as logs:
        findings = await learned(GatedStore(kind(), around=surroundings()))
    assert logs[-1]["event"] == event
    assert logs[-1]["held"] == list(findings.held)
    assert logs[-1].get("broken", {}) == findings.as_text()
    data = reader.get_metrics_data()
    assert data
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert point.value == value  # type: ignore[union-attr]  # a gauge's points have one


# A registry, over gRPC


class Caller(RegistryClient):
    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self._check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its stubs leave it out

    async def health(self) -> tuple[int, int, int]:
        """Of the server, of the service, and of writes."""
        names = ("", "looksmith.v1.AdapterRegistryService", WRITES)
        answers = [await self._check(health_pb2.HealthCheckRequest(service=name)) for name in names]
        return answers[0].status, answers[1].status, answers[2].status


@asynccontextmanager
async def calling(store: ObjectStore) -> AsyncIterator[Caller]:
    async with (
        registry_on(store, SETTINGS, {"tiny": TABLE}) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Caller(channel)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (IgnoresTheCondition, "create-if-absent"),
        (LooksBeforeItLeaps, "one winner of a race"),
        (IgnoresRanges, "ranges"),
    ],
)
async def test_a_registry_on_a_dishonest_store_answers_reads_refuses_writes_and_says_so(
    kind: type[InMemoryObjectStore], rule: str
) -> None:
    store, data, other = InMemoryObjectStore(), lora_file(), lora_file("other")
    digest = (await publish(await a_core_with_brand(store), data)).version.digest
    dishonest = kind()
    dishonest.objects = dict(store.objects)
    async with calling(dishonest) as caller:
        writes: dict[str, Awaitable[object]] = {
            "PublishAdapter": caller.publish(header_for(other), [other]),
            "PutBrand": caller.put_brand(Brand("new")),
            "SetAlias": caller.set_alias("acme", "style", "beta", 1),
        }
        for name, write in writes.items():
            with pytest.raises(FailedPrecondition) as caught:
                await write
            assert caught.value.reason == "STORE_NOT_CONFORMING", name
            assert f"{rule}: " in caught.value.message, name
            assert rule in caught.value.metadata["rules"], name
        assert (await caller.resolve(AdapterRef("acme", "style"))).version.digest == digest
        assert b"".join([piece async for piece in caller.download("acme", digest)]) == data
        assert await caller.health() == (SERVING, SERVING, NOT_SERVING)
    assert dishonest.objects == store.objects


async def test_a_registry_on_an_honest_store_takes_writes_at_once_and_says_so() -> None:
    async with calling(InMemoryObjectStore()) as caller:
        assert (await caller.put_brand(Brand("acme"))).version == 1
        assert await caller.health() == (SERVING, SERVING, SERVING)


async def test_a_registry_whose_store_comes_up_late_reads_meanwhile_and_then_takes_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "AGAIN_S", 0.05)
    inner = InMemoryObjectStore()
    await a_core_with_brand(inner)
    store = FaultyStore(inner)
    store.before = unavailable("create_if_absent")
    async with calling(store) as caller:
        with pytest.raises(Unavailable) as caught:
            await caller.put_brand(Brand("new"))
        assert (caught.value.reason, caught.value.retry_after_s) == ("STORE_NOT_PROBED", 2.0)
        assert "switched off" in caught.value.message
        assert (await caller.get_brand("acme")).version == 1
        assert await caller.health() == (SERVING, SERVING, NOT_SERVING)

        store.before = lambda _name, _number: None

        async with asyncio.timeout(5):
            while await caller.health() != (SERVING, SERVING, SERVING):  # noqa: ASYNC110  # as a caller asks
                await asyncio.sleep(0.02)
        assert (await caller.put_brand(Brand("new"))).version == 1


def unavailable(method: str) -> Callable[[str, int], None]:
    """A fault for FaultyStore: the store is out of reach of one method."""

    def before(name: str, number: int) -> None:
        if name == method:
            raise StoreUnavailable("switched off")

    return before
