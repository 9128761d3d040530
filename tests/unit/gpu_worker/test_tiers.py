from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from looksmith.errors import NotFound, Unavailable
from looksmith.lora import Code, LoraError, Problem
from looksmith.nouns import Tier
from services.gpu_worker import disk_cache
from services.gpu_worker.engine.fake import FakeEngine
from services.gpu_worker.engine.protocol import HostAdapter, Stage
from services.gpu_worker.engine.recipe import file_digest
from services.gpu_worker.errors import AdapterUnusable, DigestMismatch, RegistryLost
from services.gpu_worker.lease import Lease
from services.gpu_worker.tiers import AdapterTiers
from tests.unit.gpu_worker.worker_parts import FilesRegistry, adapter_tiers, content, digest_of, eventually, facts


@pytest.fixture
def registry() -> FilesRegistry:
    return FilesRegistry()


async def bring(tiers: AdapterTiers, digest: str) -> None:
    lease = tiers.lease("acme", [digest])
    await tiers.bring(lease)
    await tiers.place(lease)
    tiers.release(lease)


async def test_an_adapter_passes_from_the_store_to_the_device_and_each_stage_is_timed(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        lease = tiers.lease("acme", [digest])
        assert lease.tier is Tier.STORE
        await tiers.bring(lease)
        assert tiers.residency() == {digest: Tier.HOST}
        await tiers.place(lease)
        assert tiers.residency() == {digest: Tier.DEVICE}
        stages = [stage.stage for stage in lease.stages]
        assert (stages[0], stages[-1]) == (Stage.FETCH, Stage.COPY)
        assert set(stages[1:-1]) == {Stage.VERIFY, Stage.COMPILE}, "side by side"
        assert lease.fetched_bytes == 100
        again = tiers.lease("acme", [digest])
        await tiers.bring(again)
        await tiers.place(again)
        assert (again.tier, again.stages, again.fetched_bytes) == (Tier.DEVICE, [], 0)


async def test_a_hundred_jobs_at_once_fetch_a_file_once(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    gate = registry.hold(digest)
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        leases = [tiers.lease("acme", [digest]) for _ in range(100)]
        waiting = [asyncio.create_task(tiers.bring(lease)) for lease in leases]
        await eventually(lambda: registry.downloads[digest])
        gate.set()
        assert all(await asyncio.gather(*waiting))
    assert registry.downloads[digest] == 1
    assert all(Stage.FETCH in {stage.stage for stage in lease.stages} for lease in leases), "all of them waited for it"
    assert sum(lease.fetched_bytes for lease in leases) == 100, "and one of them paid"


class Unreachable(FilesRegistry):
    """A registry whose connection is cut in mid-file until it is ``back``."""

    back = False

    async def download(self, brand: str, digest: str) -> AsyncIterator[bytes]:
        async for chunk in super().download(brand, digest):
            yield chunk
            if not self.back:
                raise Unavailable("connection reset")


async def test_a_registry_that_is_lost_in_mid_file_is_named_and_the_file_is_fetched_once_it_is_back(
    tmp_path: Path,
) -> None:
    registry = Unreachable()
    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        with pytest.raises(RegistryLost, match="connection reset") as caught:
            await bring(tiers, digest)
        assert caught.value.retry_after_s
        registry.back = True
        await bring(tiers, digest)
        assert tiers.residency() == {digest: Tier.DEVICE}


async def test_a_job_that_leaves_does_not_end_the_fetch_that_others_wait_for(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    gate = registry.hold(digest)
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        first, second = (asyncio.create_task(tiers.bring(tiers.lease("acme", [digest]))) for _ in range(2))
        await eventually(lambda: registry.downloads[digest])
        first.cancel()
        gate.set()
        assert await second
    assert registry.downloads[digest] == 1


async def test_bytes_with_another_digest_are_refused_and_the_next_try_fetches_anew(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    registry.served[digest] = content("b")
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        with pytest.raises(DigestMismatch) as caught:
            await tiers.bring(tiers.lease("acme", [digest]))
        assert caught.value.metadata == {"digest": digest, "found": digest_of(content("b"))}
        assert tiers.residency() == {}
        assert tiers.disk_bytes == 0
        registry.served[digest] = content("a")
        await bring(tiers, digest)
    assert registry.downloads[digest] == 2


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are checked once this is set."""
    go_on = threading.Event()

    def wait(path: Path) -> str:
        go_on.wait(10)
        return file_digest(path)

    monkeypatch.setattr(disk_cache, "file_digest", wait)
    return go_on


async def test_adapter_is_read_while_its_file_is_checked_and_comes_in_when_both_are_done(
    tmp_path: Path, registry: FilesRegistry, checks: threading.Event
) -> None:
    read = threading.Event()

    class Telling(FakeEngine):
        def read(self, path: Path, digest: str) -> HostAdapter:
            read.set()
            return super().read(path, digest)

    digest = registry.add(content("a"))
    engine = Telling([facts()])
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, _):
        bringing = asyncio.create_task(tiers.bring(tiers.lease("acme", [digest])))
        await eventually(read.is_set)
        await asyncio.sleep(0.05)
        assert (tiers.residency(), engine.kept, bringing.done()) == ({digest: Tier.DISK}, [], False)
        checks.set()
        assert await bringing
        assert (tiers.residency(), engine.kept) == ({digest: Tier.HOST}, [digest])


@pytest.mark.parametrize("fails_in", ["", "host_size", "read"])
async def test_what_is_wrong_with_other_bytes_is_not_held_against_the_adapter(
    fails_in: str, tmp_path: Path, registry: FilesRegistry, checks: threading.Event
) -> None:
    class Picky(FakeEngine):
        def host_size(self, path: Path, digest: str) -> int:
            return self._unless("host_size") or super().host_size(path, digest)

        def read(self, path: Path, digest: str) -> HostAdapter:
            self._unless("read")
            return super().read(path, digest)

        def _unless(self, where: str) -> int:
            if where == fails_in:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).add_done_callback(lambda _: checks.set())
                raise LoraError(Problem(Code.E_MODULE, "no such module"))
            return 0

    loop = asyncio.get_running_loop()
    digest = registry.add(content("a"))
    registry.served[digest] = content("b")
    engine = Picky([facts()])
    if not fails_in:
        checks.set()
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, _):
        leases = [tiers.lease("acme", [digest]) for _ in range(3)]
        found = await asyncio.gather(*(tiers.bring(lease) for lease in leases), return_exceptions=True)
        assert [type(error) for error in found] == [DigestMismatch] * 3
        assert (tiers.residency(), tiers.host_bytes, engine.kept) == ({}, 0, [])


async def test_what_the_registry_says_reaches_the_job(tmp_path: Path, registry: FilesRegistry) -> None:
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        with pytest.raises(NotFound) as caught:
            await tiers.bring(tiers.lease("acme", ["0" * 64]))
    assert caught.value.reason == "DIGEST_NOT_FOUND"


async def test_file_that_the_engine_refuses_is_unusable_each_time(tmp_path: Path, registry: FilesRegistry) -> None:
    class Picky(FakeEngine):
        def read(self, path: Path, digest: str) -> HostAdapter:
            raise LoraError(Problem(Code.E_MODULE, "no such module"))

    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry, engine=Picky([facts()])) as (tiers, _):
        for _ in range(2):
            with pytest.raises(AdapterUnusable, match="no such module"):
                await tiers.bring(tiers.lease("acme", [digest]))
        assert tiers.host_bytes == 0


async def test_slots_and_bytes_stay_within_their_budgets_and_the_least_recently_used_goes(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digests = [registry.add(content(name)) for name in "abcdef"]
    engine = FakeEngine([facts()], slots=2)
    async with adapter_tiers(tmp_path, registry, engine=engine, host_bytes=300, disk_bytes=500) as (tiers, _):
        for digest in [*digests[:3], digests[0], *digests[3:]]:
            await bring(tiers, digest)
            assert tiers.slots_used <= 2
            assert tiers.host_bytes <= 300
            assert tiers.disk_bytes <= 500
        here = tiers.residency()
        assert [digest for digest in digests if here.get(digest) is Tier.DEVICE] == digests[4:]
        assert here[digests[3]] is Tier.HOST
        assert len(here) == 5
        assert engine._placed == set(digests[4:]), "the engine was told"


async def test_jobs_wait_for_host_memory_that_others_hold_and_never_for_each_other(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    a, b, c = (registry.add(content(name)) for name in "abc")
    async with adapter_tiers(tmp_path, registry, host_bytes=200) as (tiers, _):
        holder = tiers.lease("acme", [a])
        await tiers.bring(holder)
        pairs = [tiers.lease("acme", pair) for pair in ([a, b], [b, c], [c, a])]

        async def use(lease: Lease) -> None:
            await tiers.bring(lease)
            assert all(digest in tiers._host for digest in lease.digests)
            assert tiers.host_bytes <= 200
            tiers.release(lease)

        using = [asyncio.create_task(use(lease)) for lease in pairs]
        await eventually(lambda: len(tiers.residency()) == 3)
        tiers.release(holder)
        async with asyncio.timeout(5):
            await asyncio.gather(*using)


async def test_adapter_beyond_all_host_memory_is_refused_at_once(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a", 400))
    async with adapter_tiers(tmp_path, registry, host_bytes=300) as (tiers, _):
        with pytest.raises(AdapterUnusable, match="400 bytes"):
            await tiers.bring(tiers.lease("acme", [digest]))


async def test_adapter_evicted_from_the_device_while_its_job_waited_is_placed_again(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    a, b = (registry.add(content(name)) for name in "ab")
    async with adapter_tiers(tmp_path, registry, slots=1, host_bytes=100) as (tiers, _):
        await bring(tiers, a)
        await tiers.evict("unknown")
        tiers._host.clear()  # a is on the device alone
        waiting = tiers.lease("acme", [a])
        await tiers.bring(waiting)
        await bring(tiers, b)
        assert tiers.residency()[a] is Tier.DISK
        await tiers.place(waiting)
        assert tiers.residency()[a] is Tier.DEVICE


async def test_a_job_waits_while_running_jobs_hold_all_slots(tmp_path: Path, registry: FilesRegistry) -> None:
    a, b = (registry.add(content(name)) for name in "ab")
    async with adapter_tiers(tmp_path, registry, slots=1) as (tiers, _):
        running, next_one = tiers.lease("acme", [a]), tiers.lease("acme", [b])
        await tiers.bring(running)
        await tiers.place(running)
        await tiers.bring(next_one)
        placing = asyncio.create_task(tiers.place(next_one))
        await asyncio.sleep(0.05)
        assert not placing.done()
        assert tiers.residency()[a] is Tier.DEVICE
        tiers.release(running)
        await placing
        assert tiers.residency()[b] is Tier.DEVICE
        assert tiers.slots_used == 1
        tiers.release(next_one)


async def test_a_lease_released_while_it_waits_for_a_slot_makes_nobody_leave(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    a, b = (registry.add(content(name)) for name in "ab")
    async with adapter_tiers(tmp_path, registry, slots=1) as (tiers, _):
        running, waiting = tiers.lease("acme", [a]), tiers.lease("acme", [b])
        for lease in (running, waiting):
            await tiers.bring(lease)
        await tiers.place(running)
        placing = asyncio.create_task(tiers.place(waiting))
        await asyncio.sleep(0.05)
        tiers.release(waiting)
        await placing
        tiers.release(running)
        assert tiers.residency()[a] is Tier.DEVICE


async def test_restart_finds_adapters_on_disk(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        await bring(tiers, digest)
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        lease = tiers.lease("acme", [digest])
        assert lease.tier is Tier.DISK
        await tiers.bring(lease)
        assert {stage.stage for stage in lease.stages} == {Stage.VERIFY, Stage.COMPILE}
    assert registry.downloads[digest] == 1


async def test_prefetch_brings_an_adapter_to_memory_and_changes_are_seen(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    seen: list[dict[str, Tier]] = []
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        tiers.watch(lambda: seen.append(tiers.residency()))
        tiers.prefetch("acme", digest)
        await eventually(lambda: tiers.residency().get(digest) is Tier.HOST)
        assert seen == [{digest: Tier.DISK}, {digest: Tier.HOST}]
        tiers.prefetch("acme", "0" * 64)
        await eventually(lambda: registry.downloads["0" * 64])


async def test_prefetch_without_room_in_memory_stays_on_disk(tmp_path: Path, registry: FilesRegistry) -> None:
    a, b = (registry.add(content(name)) for name in "ab")
    async with adapter_tiers(tmp_path, registry, host_bytes=100) as (tiers, _):
        await tiers.bring(tiers.lease("acme", [a]))
        tiers.prefetch("acme", b)
        await eventually(lambda: tiers.residency().get(b) is Tier.DISK and not tiers._prefetches)
        assert tiers.residency() == {a: Tier.HOST, b: Tier.DISK}


async def test_evict_forgets_an_adapter_unless_a_job_uses_it(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        lease = tiers.lease("acme", [digest])
        await tiers.bring(lease)
        await tiers.place(lease)
        assert not await tiers.evict(digest)
        assert tiers.residency() == {digest: Tier.DEVICE}
        tiers.release(lease)
        assert await tiers.evict(digest)
        assert tiers.residency() == {digest: Tier.DISK}


async def test_job_that_comes_during_an_eviction_finds_its_adapter_placed_again(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    engine = FakeEngine([facts()])
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, _):
        await bring(tiers, digest)
        evicting = asyncio.create_task(tiers.evict(digest))
        await asyncio.sleep(0)  # it has begun, and the engine has not answered
        lease = tiers.lease("acme", [digest])
        await tiers.bring(lease)
        await tiers.place(lease)
        await evicting
        assert engine._placed == {digest}
        assert tiers.residency() == {digest: Tier.DEVICE}


async def test_what_is_forgotten_leaves_every_tier_and_is_fetched_anew(tmp_path: Path, registry: FilesRegistry) -> None:
    digest, other = registry.add(content("a")), registry.add(content("b"))
    engine = FakeEngine([facts()])
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, thread):
        await bring(tiers, digest)
        await bring(tiers, other)
        tiers.forget([digest, "0" * 64])
        await thread.call(lambda: None)
        assert tiers.residency() == {other: Tier.DEVICE}
        assert (engine._placed, engine.kept) == ({other}, [other])
        assert not (tmp_path / digest).exists()
        await bring(tiers, digest)
        assert registry.downloads[digest] == 2
        assert tiers.residency()[digest] is Tier.DEVICE, "it is not forgotten for ever"


async def test_what_a_job_uses_is_forgotten_when_the_last_such_job_ends(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest = registry.add(content("a"))
    engine = FakeEngine([facts()])
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, thread):
        leases = [tiers.lease("acme", [digest]) for _ in range(2)]
        for lease in leases:
            await tiers.bring(lease)
            await tiers.place(lease)
        tiers.forget([digest])
        tiers.release(leases[0])
        assert tiers.residency() == {digest: Tier.DEVICE}
        tiers.release(leases[1])
        await thread.call(lambda: None)
        assert (tiers.residency(), engine._placed, engine.kept) == ({}, set(), [])


async def test_what_is_forgotten_on_its_way_goes_when_it_has_come(tmp_path: Path, registry: FilesRegistry) -> None:
    digest = registry.add(content("a"))
    gate = registry.hold(digest)
    async with adapter_tiers(tmp_path, registry) as (tiers, _):
        lease = tiers.lease("acme", [digest])
        bringing = asyncio.create_task(tiers.bring(lease))
        await eventually(lambda: registry.downloads[digest])
        bringing.cancel()  # the job was ended; the fetch goes on
        tiers.release(lease)
        tiers.forget([digest])
        gate.set()
        await eventually(lambda: not tiers._unwanted)
        assert tiers.residency() == {}
    assert not (tmp_path / digest).exists()


async def test_a_job_that_waits_for_memory_fetches_again_what_was_forgotten_meanwhile(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    digest, big = registry.add(content("a")), registry.add(content("b", 200))
    async with adapter_tiers(tmp_path, registry, host_bytes=200) as (tiers, _):
        holder, lease = tiers.lease("acme", [big]), tiers.lease("zenith", [digest])
        await tiers.bring(holder)
        waiting = asyncio.create_task(tiers.bring(lease))
        await eventually(lambda: tiers.residency().get(digest) is Tier.DISK and not tiers._flights._tasks)
        tiers.forget([digest])
        assert digest not in tiers.residency()
        tiers.release(holder)
        assert await waiting
        assert (tiers.residency()[digest], registry.downloads[digest]) == (Tier.HOST, 2)


async def test_what_is_forgotten_while_it_is_copied_does_not_stay_on_the_device(
    tmp_path: Path, registry: FilesRegistry
) -> None:
    copying, go_on = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        def place(self, adapter: HostAdapter) -> None:
            copying.set()
            go_on.wait(5)
            super().place(adapter)

    digest = registry.add(content("a"))
    engine = Slow([facts()])
    async with adapter_tiers(tmp_path, registry, engine=engine) as (tiers, thread):
        lease = tiers.lease("acme", [digest])
        await tiers.bring(lease)
        placing = asyncio.create_task(tiers.place(lease))
        await eventually(copying.is_set)
        tiers.release(lease)  # its job has ended
        tiers.forget([digest])
        go_on.set()
        await placing
        tiers.release(lease)
        await thread.call(lambda: None)
        assert (tiers.residency(), engine._placed) == ({}, set())
