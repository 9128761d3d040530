"""Files in parts, and uploads that break off: what is kept, what is gone on with, and when it is too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Brand
from services.registry.blobs import Blobs
from services.registry.core import Core
from services.registry.errors import (
    AdapterRefused,
    BrandNotFound,
    DigestMismatch,
    PublicationTooSlow,
    RequestIdReused,
    StoreUnavailable,
    UploadNotFound,
    UploadOffset,
)
from services.registry.fake_client import TrustingJudge
from services.registry.intake import PARTS_IN_MEMORY, take_in
from services.registry.messages import Published, UploadState
from services.registry.object_store import InMemoryObjectStore, ObjectStore
from tests.unit.registry.parts import Clock, FaultyStore, a_core, chunks, header_for, lora_file

PART = 100
DATA = lora_file()
DIGEST = header_for(DATA).digest
STYLE = AdapterRef("acme", "style")
HOURS = 3600.0
NOT_A_NUMBER = b"\x00\x7e"  # as float16, which the file ends with


class Cut(Exception):
    """The connection broke."""


async def cut(data: bytes, size: int = 30) -> AsyncIterator[bytes]:
    """What comes over a connection that breaks after ``data``."""
    async for chunk in chunks(data, size):
        yield chunk
    raise Cut


def replica(store: ObjectStore, seed: int = 0, clock: Clock | None = None) -> Core:
    return a_core(store, seed=seed, clock=clock, part_bytes=PART)


@pytest.fixture
def store() -> InMemoryObjectStore:
    return InMemoryObjectStore()


@pytest.fixture
async def core(store: InMemoryObjectStore) -> Core:
    core = replica(store)
    await core.brands.put(Brand("acme"))
    return core


async def send(core: Core, data: bytes, *, offset: int = 0, request_id: str = "r", **fields: object) -> Published:
    header = header_for(data, request_id=request_id, offset=offset, **fields)
    return await core.publisher.publish(header, chunks(data[offset:], 30))


async def break_off(core: Core, after: int, *, data: bytes = DATA, offset: int = 0) -> int:
    """Sends some of a file, and returns how much is held then."""
    with pytest.raises(Cut):
        await core.publisher.publish(header_for(data, request_id="r", offset=offset), cut(data[offset:after]))
    return await held_by(core)


async def held_by(core: Core) -> int:
    try:
        return (await core.uploads.state("acme", "r")).received_bytes
    except UploadNotFound:
        return 0


async def stored(core: Core, *, offset: int = 0, limit: int = 0, digest: str = DIGEST) -> bytes:
    return b"".join([piece async for piece in await core.catalog.open("acme", digest, offset=offset, limit=limit)])


def keys(store: InMemoryObjectStore, part_of: str) -> list[str]:
    return sorted(key for key in store.objects if part_of in key)


# Files in parts


async def test_a_large_file_lies_in_parts_that_its_record_names_and_a_small_one_in_one_object(
    core: Core, store: InMemoryObjectStore
) -> None:
    await send(core, DATA)
    file = await core.catalog.published_by("acme", "r")
    assert file is not None
    assert [len(store.objects[key]) for key in file.keys] == [PART] * (len(DATA) // PART) + [len(DATA) % PART]
    assert b"".join(store.objects[key] for key in file.keys) == DATA
    assert keys(store, "/blobs/") == sorted(file.keys)

    whole = a_core(store, part_bytes=len(DATA))
    await whole.brands.put(Brand("bolt"))
    await send(whole, DATA, brand="bolt")
    assert [len(store.objects[key]) for key in keys(store, "/b/bolt/blobs/")] == [len(DATA)]


@pytest.mark.parametrize("offset", [0, 1, PART - 1, PART, PART + 1, 3 * PART + 50, len(DATA) - 1])
@pytest.mark.parametrize("limit", [0, 1, PART, PART + 1, 250, 10_000])
async def test_any_stretch_of_a_file_in_parts_can_be_read(core: Core, offset: int, limit: int) -> None:
    await send(core, DATA)
    assert await stored(core, offset=offset, limit=limit) == DATA[offset : offset + limit if limit else None]


async def test_a_large_file_from_before_there_were_parts_is_read_as_it_lies(store: InMemoryObjectStore) -> None:
    store.objects["r1/b/acme/blobs/old"] = DATA
    blobs = Blobs(store=store, part_bytes=PART)
    got = [piece async for piece in blobs.read(("r1/b/acme/blobs/old",), offset=150, limit=300)]
    assert b"".join(got) == DATA[150:450]


@pytest.fixture
def written(store: InMemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys that are put, in order."""
    written: list[str] = []
    put = store.put

    async def noted(key: str, data: bytes | memoryview) -> None:
        written.append(key)
        await put(key, data)

    monkeypatch.setattr(store, "put", noted)
    return written


async def test_no_two_publications_write_the_same_key(
    core: Core, store: InMemoryObjectStore, written: list[str]
) -> None:
    others = [replica(store, seed) for seed in (1, 2)]
    await asyncio.gather(*(send(other, DATA, request_id="") for other in others))
    await asyncio.gather(*(send(other, DATA, request_id=str(i)) for i, other in enumerate(others)))
    assert len(written) == len(set(written))
    assert len(written) == 2 * len(range(0, len(DATA), PART))


async def test_a_large_file_that_the_brand_has_is_not_stored_again(core: Core, store: InMemoryObjectStore) -> None:
    await send(core, DATA)
    before = keys(store, "/blobs/")
    again = await send(core, DATA, adapter="other", request_id="s")
    assert (again.version.adapter, again.already_existed) == ("other", False)
    assert keys(store, "/blobs/") == before
    assert keys(store, "/up/") == []


async def test_a_file_that_was_erased_with_its_brand_is_stored_again_also_by_a_replica_that_remembers_it(
    core: Core, store: InMemoryObjectStore
) -> None:
    remembering = a_core(store, seed=1, part_bytes=PART, max_age_s=60)
    await send(remembering, DATA)
    await core.eraser.erase("acme")
    await remembering.brands.put(Brand("acme"))
    await send(remembering, DATA, adapter="other", request_id="s")
    assert await stored(replica(store, 3)) == DATA


@pytest.mark.parametrize("recreated", [False, True])
async def test_what_began_before_its_brand_was_erased_does_not_end_after_the_brand_was_made_anew(
    core: Core,
    store: InMemoryObjectStore,
    recreated: bool,  # noqa: FBT001  # a parameter
) -> None:
    other = replica(store, 1)

    async def while_the_brand_goes() -> AsyncIterator[bytes]:
        yield DATA[:350]
        await other.eraser.erase("acme")
        if recreated:
            await other.brands.put(Brand("acme"))
        yield DATA[350:]

    with pytest.raises(BrandNotFound):
        await core.publisher.publish(header_for(DATA, request_id="r"), while_the_brand_goes())
    assert not (await replica(store, 2).catalog.list_adapters("acme", 10, "")).items


async def test_a_store_that_shows_too_little_of_a_part_is_not_believed(
    core: Core, store: InMemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_little(_key: str) -> int:
        return PART - 1

    monkeypatch.setattr(store, "size", too_little)
    with pytest.raises(StoreUnavailable, match="99 bytes of an object of 100"):
        await send(core, DATA)
    assert keys(store, "/a/style/") == []


# Memory


async def test_no_more_than_a_few_parts_are_in_memory_however_slow_the_store_is() -> None:
    received, kept, release = 0, 0, asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal received
        while True:
            received += 10
            yield bytes(10)

    async def keep(_index: int, _data: memoryview) -> str:
        nonlocal kept
        kept += 1
        await release.wait()
        return ""

    taking = asyncio.create_task(
        take_in(endless(), judge=TrustingJudge(header_for(b"")), digest="", size=10**9, part_bytes=PART, keep=keep)
    )
    for _ in range(300):
        await asyncio.sleep(0.001)
    assert kept == PARTS_IN_MEMORY
    assert received <= PARTS_IN_MEMORY * PART + 3 * 10
    taking.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await taking


async def test_parts_on_their_way_arrive_though_the_connection_breaks(core: Core, store: InMemoryObjectStore) -> None:
    arrive = store._arrive

    async def slowly() -> None:
        await asyncio.sleep(0.02)
        await arrive()

    store._arrive = slowly  # type: ignore[method-assign]  # a slow store
    taking = asyncio.create_task(core.publisher.publish(header_for(DATA, request_id="r"), cut_later(DATA[:250])))
    while not keys(store, "/up/"):  # noqa: ASYNC110  # a store tells nobody
        await asyncio.sleep(0.005)
    taking.cancel()  # as a server does when the caller is gone
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert len(keys(store, "/blobs/")) == 2, "at once"
    assert (await core.uploads.state("acme", "r")).received_bytes == 200


async def cut_later(data: bytes) -> AsyncIterator[bytes]:
    yield data
    await asyncio.Event().wait()


# Going on


@pytest.mark.parametrize("after", [0, 1, 99, 100, 101, 250, 700, len(DATA)])
async def test_an_upload_that_breaks_off_anywhere_goes_on_at_another_replica_with_less_than_a_part_sent_again(
    core: Core, store: InMemoryObjectStore, after: int
) -> None:
    held = await break_off(core, after)
    assert after - PART <= held <= after
    assert held % PART == 0
    other = replica(store, 1)
    published = await send(other, DATA, offset=held)
    assert (published.version.version, published.version.digest, published.already_existed) == (1, DIGEST, False)
    assert published.version.manifest.modules == 2
    assert await stored(other) == DATA
    assert keys(store, "/up/") == []
    assert len(keys(store, "/blobs/")) == len(range(0, len(DATA), PART))


async def test_an_upload_may_break_off_many_times_and_each_part_is_stored_once(
    core: Core, store: InMemoryObjectStore, written: list[str]
) -> None:
    held = 0
    for seed, more in enumerate((130, 240, 20, 190), start=1):
        held = await break_off(replica(store, seed), held + more, offset=held)
    assert held == 400
    await send(core, DATA, offset=held)
    assert await stored(core) == DATA
    assert len(written) == len(set(written)) == len(range(0, len(DATA), PART))


async def test_what_is_held_expires_and_says_when(core: Core) -> None:
    await break_off(core, 250)
    state = await core.uploads.state("acme", "r")
    assert state.received_bytes == 200
    assert state.expire_time is not None
    assert (state.expire_time - Clock().wall()).total_seconds() == 24 * HOURS


async def test_of_a_published_request_all_is_held_also_at_a_replica_that_never_heard_of_it(
    core: Core, store: InMemoryObjectStore
) -> None:
    await send(core, DATA)
    assert await replica(store, 1).uploads.state("acme", "r") == UploadState(len(DATA))
    again = await send(replica(store, 2), DATA, offset=len(DATA))
    assert (again.version.version, again.already_existed) == (1, False)


async def test_what_was_published_elsewhere_a_moment_ago_is_not_gone_on_with_but_answered(
    core: Core, store: InMemoryObjectStore
) -> None:
    remembering = a_core(store, seed=1, part_bytes=PART, max_age_s=60)
    await send(remembering, lora_file("first"), request_id="first")
    await send(core, DATA)
    again = await send(remembering, DATA, offset=len(DATA))
    assert (again.version.version, again.already_existed) == (2, False)


async def test_of_an_unknown_request_nothing_is_held(core: Core) -> None:
    with pytest.raises(UploadNotFound):
        await core.uploads.state("acme", "r")


async def test_a_file_without_a_request_id_leaves_nothing_to_go_on_with(core: Core, store: InMemoryObjectStore) -> None:
    with pytest.raises(Cut):
        await core.publisher.publish(header_for(DATA), cut(DATA[:350]))
    assert keys(store, "/up/") == []


async def test_a_small_file_costs_no_record_of_its_upload(store: InMemoryObjectStore) -> None:
    core = a_core(store, part_bytes=len(DATA))
    await core.brands.put(Brand("acme"))
    with pytest.raises(Cut):
        await core.publisher.publish(header_for(DATA, request_id="r"), cut(DATA))
    assert keys(store, "/up/") + keys(store, "/blobs/") == []


@pytest.mark.parametrize("offset", [100, 300, len(DATA)])
async def test_an_upload_goes_on_only_where_it_broke_off(core: Core, offset: int) -> None:
    await break_off(core, 250)
    with pytest.raises(UploadOffset) as caught:
        await send(core, DATA, offset=offset)
    assert caught.value.metadata == {"received_bytes": "200"}


@pytest.mark.parametrize(
    "other",
    [{"digest": "0" * 64}, {"size_bytes": len(DATA) + 1}, {"adapter": "logo"}],
    ids=lambda other: next(iter(other)),
)
@pytest.mark.parametrize("offset", [0, 200])
async def test_a_request_id_stands_for_one_upload(core: Core, other: dict[str, object], offset: int) -> None:
    await break_off(core, 250)
    with pytest.raises(RequestIdReused, match="another unfinished upload"):
        await send(core, DATA, offset=offset, **other)  # type: ignore[arg-type]  # header's fields, none of its own
    assert (await core.uploads.state("acme", "r")).received_bytes == 200, "the first is as it was"


async def test_an_upload_begun_anew_under_its_request_id_writes_the_same_parts(
    core: Core, store: InMemoryObjectStore
) -> None:
    await break_off(core, 450)
    await send(replica(store, 1), DATA)
    assert len(keys(store, "/blobs/")) == len(range(0, len(DATA), PART))
    assert await stored(core) == DATA


async def test_an_upload_that_has_expired_is_begun_anew_with_another_key(store: InMemoryObjectStore) -> None:
    clock = Clock()
    core = replica(store, clock=clock)
    await core.brands.put(Brand("acme"))
    await break_off(core, 450)
    clock.seconds += 24 * HOURS - 1
    assert (await core.uploads.state("acme", "r")).received_bytes == 400
    clock.seconds += 1
    with pytest.raises(UploadNotFound):
        await core.uploads.state("acme", "r")
    with pytest.raises(UploadOffset) as caught:
        await send(core, DATA, offset=400)
    assert caught.value.metadata == {"received_bytes": "0"}
    assert await break_off(core, 250) == 200
    await send(core, DATA, offset=200)
    assert len({key.split("/")[4] for key in keys(store, "/blobs/")}) == 2
    assert await stored(core) == DATA


# Bad uploads


async def test_the_upload_of_bytes_that_are_not_the_announced_ones_is_forgotten(
    core: Core, store: InMemoryObjectStore
) -> None:
    await break_off(core, 250)
    damaged = DATA[200:600] + bytes([DATA[600] ^ 1]) + DATA[601:]
    with pytest.raises((DigestMismatch, AdapterRefused)):
        await core.publisher.publish(header_for(DATA, request_id="r", offset=200), chunks(damaged, 30))
    with pytest.raises(UploadNotFound):
        await core.uploads.state("acme", "r")
    await send(core, DATA)
    assert await stored(core) == DATA


async def test_the_upload_of_a_file_that_is_refused_is_forgotten(core: Core, store: InMemoryObjectStore) -> None:
    bad = DATA[:-2] + NOT_A_NUMBER
    assert await break_off(core, len(bad) - 1, data=bad) == 700
    with pytest.raises(AdapterRefused, match="E_NONFINITE"):
        await send(core, bad, offset=700)
    assert keys(store, "/up/") == []


async def test_a_refused_call_does_not_end_the_upload_of_another_file(core: Core) -> None:
    await break_off(core, 250)
    with pytest.raises(AdapterRefused):
        await send(core, b"PK\x03\x04" + bytes(500))
    assert (await core.uploads.state("acme", "r")).received_bytes == 200


@pytest.mark.parametrize("fault", ["other bytes", "gone while it is read"])
async def test_a_part_that_is_not_what_it_was_is_found_and_the_upload_begun_anew(
    core: Core, store: InMemoryObjectStore, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await break_off(core, 350)
    part = keys(store, "/blobs/")[1]
    if fault == "other bytes":
        store.objects[part] = bytes(PART)
    else:
        get = store.get

        async def lost(key: str) -> bytes | None:
            return None if key == part else await get(key)

        monkeypatch.setattr(store, "get", lost)
    with pytest.raises(UploadOffset) as caught:
        await send(core, DATA, offset=300)
    assert caught.value.metadata == {"received_bytes": "0"}
    monkeypatch.undo()
    await send(core, DATA)
    assert await stored(core) == DATA


async def test_where_two_streams_left_different_bytes_neither_is_believed(
    core: Core, store: InMemoryObjectStore
) -> None:
    damaged = DATA[:150] + bytes([DATA[150] ^ 1]) + DATA[151:]
    with pytest.raises(Cut):
        await core.publisher.publish(header_for(DATA, request_id="r"), cut(damaged[:450]))
    assert await break_off(core, 450) == 100
    await send(core, DATA, offset=100)
    assert await stored(core) == DATA


async def test_two_streams_of_one_request_make_one_version_and_one_of_them_may_be_damaged(
    store: InMemoryObjectStore, core: Core
) -> None:
    damaged = DATA[:150] + bytes([DATA[150] ^ 1]) + DATA[151:]
    header = header_for(DATA, request_id="r")
    others = [replica(store, seed) for seed in (1, 2, 3)]
    first, second, third = await asyncio.gather(
        others[0].publisher.publish(header, chunks(DATA, 30)),
        others[1].publisher.publish(header, chunks(DATA, 70)),
        others[2].publisher.publish(header, chunks(damaged, 40)),
        return_exceptions=True,
    )
    assert isinstance(first, Published)
    assert first == second
    assert isinstance(third, Published | LooksmithError)
    assert (await core.catalog.get("acme", "style")).latest_version == 1
    assert await stored(core) == DATA


# Stores that fail


async def test_a_store_that_fails_in_the_middle_leaves_what_it_has_to_go_on_with() -> None:
    calls, failed = 0, 0
    while True:
        inner = InMemoryObjectStore()
        faulty = FaultyStore(inner)
        core = replica(faulty)
        await core.brands.put(Brand("acme"))
        at = len(faulty.calls) + (calls := calls + 1)

        def fail(_name: str, number: int, at: int = at) -> None:
            if number >= at:
                raise StoreUnavailable("planted")

        faulty.before = fail
        try:
            await send(core, DATA)
        except LooksmithError:
            failed += 1
        else:
            break
        other = replica(inner, 1)
        published = await send(other, DATA, offset=await held_by(other))
        assert (published.version.version, published.already_existed) == (1, False)
        assert await stored(other) == DATA
    assert failed > 3 * len(range(0, len(DATA), PART)) / 2, "it failed at each part and its check, among others"


@pytest.mark.parametrize("happened", [False, True], ids=["before", "after"])
async def test_a_replica_that_dies_at_any_store_call_leaves_nothing_half_visible(*, happened: bool) -> None:
    class Crash(BaseException):
        """The process is gone: nobody catches this."""

    point, died = 0, True
    while died:
        point += 1
        inner = InMemoryObjectStore()
        faulty = FaultyStore(inner)
        core = replica(faulty)
        await core.brands.put(Brand("acme"))
        at = len(faulty.calls) + point

        def crash(_name: str, number: int, at: int = at) -> None:
            if number >= at:
                raise Crash

        setattr(faulty, "after" if happened else "before", crash)
        try:
            await send(core, DATA)
            died = False
        except Crash:
            pass
        other = replica(inner, 1)
        published = await send(other, DATA, offset=await held_by(other))
        assert (published.version.version, published.already_existed) == (1, False)
        assert await stored(other) == DATA
    assert point > 20


# Too late


@pytest.mark.parametrize(("minutes", "accepted"), [(10, True), (10.1, False)])
async def test_a_record_may_name_a_file_for_so_long_after_it_came_and_then_the_call_is_repeated(
    minutes: float,
    accepted: bool,  # noqa: FBT001  # a parameter
) -> None:
    clock = Clock()
    faulty = FaultyStore(InMemoryObjectStore())
    core = replica(faulty, clock=clock)
    await core.brands.put(Brand("acme"))

    def dawdle(name: str, number: int) -> None:
        if name == "keys":  # of the log, on the way to a commit
            clock.seconds += minutes * 60

    async def then_dawdle() -> AsyncIterator[bytes]:
        async for chunk in chunks(DATA, 30):
            yield chunk
        faulty.before = dawdle

    header = header_for(DATA, request_id="r")
    if accepted:
        await core.publisher.publish(header, then_dawdle())
        return
    with pytest.raises(PublicationTooSlow) as caught:
        await core.publisher.publish(header, then_dawdle())
    assert caught.value.retry_after_s
    faulty.before = lambda name, number: None
    assert (await core.uploads.state("acme", "r")).received_bytes == len(DATA)
    assert (await send(core, DATA, offset=len(DATA))).version.version == 1


async def test_a_stream_that_lasts_longer_than_an_upload_may_is_not_recorded(store: InMemoryObjectStore) -> None:
    clock = Clock()
    core = replica(store, clock=clock)
    await core.brands.put(Brand("acme"))

    async def slowly() -> AsyncIterator[bytes]:
        async for chunk in chunks(DATA, 200):
            clock.seconds += 7 * HOURS
            yield chunk

    for request_id in ("", "r"):
        with pytest.raises(PublicationTooSlow):
            await core.publisher.publish(header_for(DATA, request_id=request_id), slowly())
    assert keys(store, "/a/style/") == []
