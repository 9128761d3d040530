from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import pytest
from pydantic import TypeAdapter

from services.registry import commit_log, layout
from services.registry.commit_log import CommitLog, Record, Schema
from services.registry.errors import LogContended, OutcomeUnknown, RecordCorrupt, StoreUnavailable
from services.registry.object_store import Creation, InMemoryObjectStore, ObjectStore
from tests.unit.registry.parts import Clock, FaultyStore, LostAnswer, surroundings

# A log of words, whose state is all of them.
WORDS: Schema[str, tuple[str, ...]] = Schema(
    TypeAdapter(Record[str, tuple[str, ...]]),
    lambda state, word, _seq, _time: (*(state or ()), word),
    without_text=lambda word, state: ("-" * len(word), tuple("-" * len(word) for word in state)),
)
WordLog = CommitLog[str, tuple[str, ...]]


def a_log(store: ObjectStore, *, seed: int = 0, clock: Clock | None = None) -> WordLog:
    return CommitLog("log/", store=store, schema=WORDS, around=surroundings(clock, seed=seed))


async def add(log: WordLog, word: str) -> tuple[str, ...]:
    record, _ = await log.commit(lambda _: word)
    assert record
    return record.state


async def test_each_record_holds_the_whole_state_and_the_digest_of_the_one_before() -> None:
    store = InMemoryObjectStore()
    log = a_log(store)
    assert [await add(log, word) for word in ("a", "b")] == [("a",), ("a", "b")]
    first, second = (json.loads(store.objects[layout.slot("log/", seq)]) for seq in (1, 2))
    assert (first["seq"], first["prev_digest"], second["state"]) == (1, "", ["a", "b"])
    assert len(second["prev_digest"]) == 64
    assert first["txn_id"] != second["txn_id"]


async def test_another_replica_reads_what_was_written_and_what_comes_after() -> None:
    store = InMemoryObjectStore()
    writer, reader = a_log(store), a_log(store, seed=1)
    for word in "abc":
        await add(writer, word)
    await reader.refresh()
    assert (reader.head.state if reader.head else None) == ("a", "b", "c")
    await add(writer, "d")
    await reader.refresh()
    assert reader.seq == 4


async def test_a_replica_that_starts_lists_a_log_once_and_reads_its_newest_record_alone() -> None:
    store = InMemoryObjectStore()
    writer = a_log(store)
    for word in "abc":
        await add(writer, word)
    faulty = FaultyStore(store)
    reader = a_log(faulty, seed=1)
    await reader.refresh()
    assert (reader.seq, faulty.calls) == (3, ["keys", "get"])


@pytest.mark.parametrize("records", [1, 2, 3, 4, 5])
async def test_the_newest_record_is_found_behind_any_number_of_others(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "LISTED", 2)
    store = InMemoryObjectStore()
    writer, reader = a_log(store), a_log(store, seed=1)
    for number in range(records):
        await add(writer, str(number))
    await reader.refresh()
    assert reader.seq == records


async def test_deciding_that_nothing_changes_writes_nothing() -> None:
    store = InMemoryObjectStore()
    assert await a_log(store).commit(lambda _: None) == (None, False)
    assert store.objects == {}


async def test_racing_replicas_lose_and_double_nothing() -> None:
    store = InMemoryObjectStore()
    logs = [a_log(store, seed=seed) for seed in range(8)]
    words = [f"{writer}-{n}" for n in range(4) for writer in range(8)]
    states = await asyncio.gather(*(add(logs[int(word[0])], word) for word in words))
    reader = a_log(store)
    await reader.refresh()
    assert reader.head
    assert sorted(reader.head.state) == sorted(words)
    assert sorted(map(len, states)) == list(range(1, 33)), "two commits were told the same place"


async def test_the_loser_decides_again_on_what_the_winner_wrote() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)
    seen: list[tuple[str, ...]] = []
    winner, loser = a_log(store), a_log(faulty, seed=1)

    def overtake(name: str, number: int) -> None:
        if name == "create_if_absent" and not store.objects:
            store.objects[layout.slot("log/", 1)] = WORDS.records.dump_json(winner._next("winner's"))

    def decide(head: Record[str, tuple[str, ...]] | None) -> str:
        seen.append(head.state if head else ())
        return "loser's"

    faulty.before = overtake
    record, written = await loser.commit(decide)
    assert record
    assert (record.state, written) == (("winner's", "loser's"), True)
    assert seen == [(), ("winner's",)]


async def test_a_write_whose_answer_was_lost_is_recognised_as_ones_own() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)

    def lose(name: str, number: int) -> None:
        if name == "create_if_absent":
            raise LostAnswer

    faulty.after = lose
    log = a_log(faulty)
    assert [await add(log, word) for word in ("a", "b", "c")] == [("a",), ("a", "b"), ("a", "b", "c")]
    assert len(store.objects) == 3


async def test_a_write_that_never_arrived_is_sent_again() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)

    def lose_first(name: str, number: int) -> None:
        if faulty.calls.count("create_if_absent") == 1 and name == "create_if_absent":
            raise LostAnswer

    faulty.before = lose_first
    assert await add(a_log(faulty), "a") == ("a",)
    assert list(store.objects) == [layout.slot("log/", 1)]


async def test_a_late_write_of_ones_own_is_not_taken_for_anothers() -> None:
    """The answer is lost, the record is not there yet, and it lands just before the second try."""
    store = InMemoryObjectStore()

    class LateStore(FaultyStore):
        late: bytes = b""

        async def create_if_absent(self, key: str, data: bytes) -> Creation:
            if not self.late:
                self.late = data
                return Creation.UNKNOWN
            store.objects[key] = self.late
            return await store.create_if_absent(key, data)

    assert await add(a_log(LateStore(store)), "a") == ("a",)
    assert len(store.objects) == 1


async def test_an_outcome_that_stays_unknown_is_said_to_be() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)

    def lose_and_go_dark(name: str, number: int) -> None:
        if name == "create_if_absent":
            store.reachable = False
            raise LostAnswer

    faulty.after = lose_and_go_dark
    log = a_log(faulty)
    with pytest.raises(OutcomeUnknown):
        await add(log, "a")
    store.reachable, faulty.after = True, lambda name, number: None
    record, written = await log.commit(lambda head: None if head else "a")
    assert record
    assert (record.state, written) == (("a",), False), "the next try finds out that it had happened"


async def test_a_write_that_cannot_have_happened_is_unavailable() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)

    def go_dark(name: str, number: int) -> None:
        if name == "create_if_absent":
            raise StoreUnavailable("refused")

    faulty.before = go_dark
    with pytest.raises(StoreUnavailable):
        await add(a_log(faulty), "a")


async def test_gives_up_after_losing_too_often() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)
    rival = a_log(store)

    def overtake(name: str, number: int) -> None:
        if name == "create_if_absent":
            record = rival._next("rival")
            store.objects[layout.slot("log/", record.seq)] = data = WORDS.records.dump_json(record)
            rival._advance(commit_log.Entry(record, sha256(data).hexdigest()))

    faulty.before = overtake
    with pytest.raises(LogContended):
        await add(a_log(faulty, seed=1), "a")
    assert len(store.objects) == commit_log.MAX_LOSSES


async def test_a_record_that_does_not_follow_is_not_believed() -> None:
    store = InMemoryObjectStore()
    log, other = a_log(store), a_log(InMemoryObjectStore(), seed=1)
    await add(log, "a")
    for word in ("x", "y"):
        await add(other, word)
    foreign = other._next("z")
    store.objects[layout.slot("log/", 2)] = WORDS.records.dump_json(
        Record(2, foreign.prev_digest, "t", "w", foreign.time, "z", ("z",))
    )
    with pytest.raises(RecordCorrupt, match="does not follow"):
        await log.refresh()
    store.objects[layout.slot("log/", 2)] = b"{"
    with pytest.raises(RecordCorrupt, match="missing or bad"):
        await log.refresh()
    assert log.seq == 1


async def test_times_never_fall_along_a_log_whatever_the_clocks_say() -> None:
    store, late = InMemoryObjectStore(), Clock()
    late.seconds = 100.0
    await add(a_log(store, clock=late), "a")
    record, _ = await a_log(store, seed=1).commit(lambda _: "b")
    assert record
    assert record.time == late.wall()


@pytest.mark.parametrize("name", ["notes.txt", "9" * 20 + ".txt", "\u0669" * 20 + ".json", "x/" + "9" * 20 + ".json"])
async def test_a_strange_object_in_a_logs_place_is_none_of_its_records(name: str) -> None:
    store = InMemoryObjectStore()
    await add(a_log(store), "a")
    store.objects[f"log/{name}"] = b"{}"
    assert await add(a_log(store, seed=1), "b") == ("a", "b")


async def test_the_newest_record_is_found_behind_more_strange_objects_than_one_listing_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit_log, "LISTED", 3)
    store = InMemoryObjectStore()
    writer = a_log(store)
    await add(writer, "a")
    store.objects |= {f"{layout.slot('log/', 1)}.{number}": b"{}" for number in range(7)}
    await add(writer, "b")
    assert await add(a_log(store, seed=1), "c") == ("a", "b", "c")
