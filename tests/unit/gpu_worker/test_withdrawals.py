"""What a worker must not paint with any more, learned from a registry in memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from looksmith.errors import LooksmithError
from looksmith.nouns import AdapterRef, Brand, PinnedAdapter
from services.gpu_worker.withdrawals import Enforcement, Withdrawals
from services.registry.client import BrandErased, FakeRegistryClient, SnapshotEnd
from tests.unit.gpu_worker.worker_parts import content, digest_of
from tests.unit.registry.parts import header_for

FILES = {version: content(str(version)) for version in (1, 2)}


@pytest.fixture
async def registry() -> FakeRegistryClient:
    """acme/look with versions 1, in production, and 2."""
    registry = FakeRegistryClient()
    await registry.put_brand(Brand("acme"))
    for data in FILES.values():
        await registry.publish(header_for(data, adapter="look", family="studio"), [data])
    return registry


def look(version: int) -> PinnedAdapter:
    return PinnedAdapter("look", version, digest_of(FILES[version]), 1.0)


class Worker:
    """Counts rechecks, and keeps what was forgotten."""

    def __init__(self, registry: FakeRegistryClient) -> None:
        self.registry = registry
        self.rechecks = 0
        self.forgotten: list[str] = []
        self.withdrawals = Withdrawals(registry=registry)
        self.enforcement = Enforcement(withdrawals=self.withdrawals, forget=self._forget, recheck=self._recheck)

    async def _recheck(self) -> None:
        self.rechecks += 1

    def _forget(self, digests: Iterable[str]) -> None:
        self.forgotten += digests

    async def hear_all(self) -> None:
        """What a watch says that begins now."""
        async for message in self.registry.watch():
            await self.enforcement.hear(message)
            if isinstance(message, SnapshotEnd):
                return

    async def refusal(self, *versions: int, brand: str = "acme") -> LooksmithError | None:
        return await self.withdrawals.refusal(brand, [look(version) for version in versions])


async def test_only_versions_that_were_yanked_by_force_are_refused_in_the_words_of_the_registry(
    registry: FakeRegistryClient,
) -> None:
    worker = Worker(registry)
    await registry.yank("acme", "look", 1, replacement=2, reason="the old logo")
    await worker.hear_all()
    assert await worker.refusal(1, 2) is None
    assert worker.rechecks == 0, "nothing that is painted is concerned"
    await registry.yank("acme", "look", 1, force=True, reason="at once")
    await worker.hear_all()
    assert worker.rechecks == 1
    refusal = await worker.refusal(2, 1)
    assert refusal
    with pytest.raises(LooksmithError) as caught:
        await registry.resolve(AdapterRef("acme", "look", 1))
    said = caught.value
    assert (refusal.code, refusal.reason, refusal.metadata) == (said.code, said.reason, said.metadata)
    assert refusal.message == said.message
    assert await worker.refusal(2) is None
    assert await worker.refusal(1, brand="zenith") is None, "a name of its own"


async def test_what_is_told_again_has_nothing_looked_at_again(registry: FakeRegistryClient) -> None:
    worker = Worker(registry)
    await registry.yank("acme", "look", 1, force=True, reason="the old logo")
    for _ in range(2):
        await worker.hear_all()
    assert worker.rechecks == 1


async def test_files_of_an_erased_brand_are_forgotten_and_its_jobs_refused_as_not_found(
    registry: FakeRegistryClient,
) -> None:
    worker = Worker(registry)
    await registry.delete_brand("acme", confirm_name="acme")
    assert await worker.refusal(1) is None, "it has not heard of it"
    await worker.hear_all()
    assert sorted(worker.forgotten) == sorted(map(digest_of, FILES.values()))
    assert worker.rechecks
    refusal = await worker.refusal(1)
    assert refusal
    assert refusal.reason == "BRAND_NOT_FOUND"
    assert await worker.refusal(1, brand="zenith") is None, "the same bytes, another brand"


async def test_a_brand_that_was_created_anew_with_the_same_files_is_painted_but_not_what_was_erased(
    registry: FakeRegistryClient,
) -> None:
    worker = Worker(registry)
    await registry.delete_brand("acme", confirm_name="acme")
    await worker.hear_all()
    await registry.put_brand(Brand("acme"))
    header = header_for(FILES[2], adapter="look", family="studio")
    anew = (await registry.publish(header, [FILES[2]])).version
    refusal = await worker.refusal(2)
    assert refusal
    assert refusal.reason == "VERSION_NOT_FOUND", "the number says that it is the erased one"
    again = PinnedAdapter("look", anew.version, anew.digest, 1.0)
    assert await worker.withdrawals.refusal("acme", [again]) is None
    await registry.yank("acme", "look", anew.version, force=True, reason="no")
    assert await worker.withdrawals.refusal("acme", [again]) is None, "it was accepted before, as far as is known"


async def test_an_erased_brand_is_refused_while_the_registry_is_out_of_reach(registry: FakeRegistryClient) -> None:
    worker = Worker(FakeRegistryClient())
    worker.registry.store.reachable = False
    await worker.enforcement.hear(BrandErased("acme", (look(1).digest,), ""))
    refusal = await worker.refusal(2, 1)
    assert refusal
    assert (refusal.reason, refusal.metadata) == ("BRAND_NOT_FOUND", {"brand": "acme"})
    assert await worker.refusal(2) is None
