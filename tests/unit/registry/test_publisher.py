from __future__ import annotations

import asyncio
import json

import pytest

from looksmith.errors import InvalidField, LooksmithError
from looksmith.nouns import AdapterRef, Brand, BrandLimits, Lineage
from services.registry.core import Core
from services.registry.errors import (
    AdapterNotFound,
    AdapterRefused,
    BrandNotFound,
    BrandQuota,
    DigestMismatch,
    OutcomeUnknown,
    PublishedForOtherFamily,
    RequestIdReused,
    StoreUnavailable,
)
from services.registry.object_store import InMemoryObjectStore
from tests.unit.looksmith.lora.lora_files import TO_Q, diffusers, framed, safetensors, tensor
from tests.unit.registry.parts import (
    TABLE,
    FaultyStore,
    LostAnswer,
    a_core,
    a_core_with_brand,
    chunks,
    header_for,
    lora_file,
    publish,
)

STYLE = AdapterRef("acme", "style")


async def test_the_first_version_becomes_production_and_later_ones_do_not() -> None:
    core = await a_core_with_brand()
    first, second = await publish(core, lora_file("1")), await publish(core, lora_file("2"))
    assert (first.version.version, first.aliases, first.already_existed) == (1, ("production",), False)
    assert (second.version.version, second.aliases) == (2, ())
    assert (await core.catalog.resolve(STYLE)).version == first.version


async def test_aliases_that_the_header_names_are_set_with_the_version() -> None:
    core = await a_core_with_brand()
    assert (await publish(core, lora_file("1"), aliases=("canary",))).aliases == ("canary",)
    assert (await publish(core, lora_file("2"), aliases=("canary", "production"))).aliases == ("canary", "production")
    adapter = await core.catalog.get("acme", "style")
    assert ([alias.version for alias in adapter.aliases], adapter.seq) == ([2, 2], 2)


async def test_what_the_publisher_and_the_file_say_is_kept() -> None:
    core = await a_core_with_brand()
    data = lora_file()
    said = {"publisher": "ann", "note": "warm", "labels": {"team": "x"}, "base_digest": "0" * 64}
    version = (await publish(core, data, **said)).version
    assert (version.publisher, version.note, version.labels) == ("ann", "warm", {"team": "x"})
    assert (version.size_bytes, version.manifest.base_digest) == (len(data), "0" * 64)
    manifest = version.manifest
    assert (manifest.family, manifest.dialect, manifest.modules, manifest.ranks) == ("tiny", "diffusers", 2, (2,))
    assert (manifest.components, manifest.convolutions, manifest.parameters) == (("unet",), False, 2 * (8 + 8 + 12 + 8))
    assert [warning.partition(":")[0] for warning in manifest.warnings] == ["W_BASE_OTHER"]


async def test_what_a_publisher_says_of_the_lineage_goes_before_what_the_file_says() -> None:
    core = await a_core_with_brand()
    said = {"modelspec.trigger_phrase": "ink", "ss_clip_skip": "3", "ss_sd_model_name": "/home/ann/base.ckpt"}
    data = safetensors(diffusers(TABLE, {f"unet.{TO_Q}": 2}), said)
    declared = Lineage(clip_skip=1, prediction_type="epsilon")
    plain = (await publish(core, data, adapter="plain")).version
    assert plain.manifest.lineage == Lineage(("ink",), 2, "", "base.ckpt")
    version = (await publish(core, data, lineage=declared)).version
    assert version.manifest.lineage == Lineage(("ink",), 1, "epsilon", "base.ckpt")
    assert (await core.catalog.resolve(STYLE)).version == version


async def test_the_same_file_again_makes_no_version_and_moves_no_alias() -> None:
    core = await a_core_with_brand()
    await publish(core, lora_file("1"))
    await publish(core, lora_file("2"), aliases=("production",))
    again = await publish(core, lora_file("1"), aliases=("production",))
    assert (again.version.version, again.already_existed, again.aliases) == (1, True, ())
    assert (await core.catalog.get("acme", "style")).seq == 2


async def test_the_same_file_for_a_base_of_another_family_is_refused_and_not_taken_for_the_one_that_is_there() -> None:
    core = await a_core_with_brand()
    await publish(core, lora_file())
    with pytest.raises(PublishedForOtherFamily) as caught:
        await publish(core, lora_file(), family="other")
    assert [violation.field for violation in caught.value.violations] == ["family"]
    assert (await core.catalog.get("acme", "style")).seq == 1


async def test_a_repeated_request_gets_its_first_answer() -> None:
    core = await a_core_with_brand()
    first = await publish(core, lora_file(), request_id="r1")
    assert await publish(core, lora_file(), request_id="r1") == first
    assert not first.already_existed


async def test_a_request_id_stands_for_one_file() -> None:
    core = await a_core_with_brand()
    await publish(core, lora_file("1"), request_id="r1")
    with pytest.raises(RequestIdReused) as caught:
        await publish(core, lora_file("2"), request_id="r1")
    assert caught.value.metadata["version"] == "1"


async def test_a_file_is_uploaded_once_a_brand_and_never_shared_between_brands() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)
    core = await a_core_with_brand(faulty)
    await core.brands.put(Brand("bolt"))
    for brand, adapter in (("acme", "style"), ("acme", "logo"), ("bolt", "style")):
        await publish(core, lora_file(), brand=brand, adapter=adapter)
    assert faulty.calls.count("put") == 2
    assert sum("/blobs/" in key for key in store.objects) == 2


async def test_a_brand_without_a_record_cannot_publish() -> None:
    with pytest.raises(BrandNotFound):
        await publish(a_core(InMemoryObjectStore()), lora_file())


async def test_a_brand_s_quota_counts_each_file_once() -> None:
    core = a_core(InMemoryObjectStore())
    one, other = lora_file("1"), lora_file("2")
    await core.brands.put(Brand("acme", limits=BrandLimits(max_stored_bytes=len(one) + len(other) - 1)))
    await publish(core, one)
    await publish(core, one, adapter="logo")
    with pytest.raises(BrandQuota):
        await publish(core, other)


async def test_an_unknown_family_is_refused_and_the_known_ones_are_named() -> None:
    core = await a_core_with_brand()
    with pytest.raises(InvalidField, match="known families: other, tiny") as caught:
        await publish(core, lora_file(), family="sd15")
    assert caught.value.violations[0].field == "family"


@pytest.mark.parametrize("size", [0, (1 << 20) + 1])
async def test_an_impossible_size_is_refused_before_any_byte(size: int) -> None:
    core = await a_core_with_brand()
    with pytest.raises(InvalidField) as caught:
        await publish(core, lora_file(), size_bytes=size)
    assert (caught.value.violations[0].field, caught.value.violations[0].reason) == ("size_bytes", "E_SIZE")


HOSTILE = {
    "E_MAGIC": b"PK\x03\x04" + bytes(100),
    "E_HEADER_LEN": (1 << 40).to_bytes(8, "little") + bytes(100),
    "E_JSON": framed(b'{"a":1,"a":2}' + b" " * 10, bytes(4)),
    "E_NAME": framed({"../../etc/x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
    "E_OFFSETS": lora_file() + b"trailing",
    "E_MODULE": safetensors({f"unet.nowhere.{half}.weight": tensor([[1.0]]) for half in ("lora_A", "lora_B")}),
    "E_NONFINITE": safetensors(
        {
            f"unet.{TO_Q}.lora_A.weight": tensor([[float("nan")] * 8]),
            f"unet.{TO_Q}.lora_B.weight": tensor([[1.0]] * 8),
        }
    ),
}


@pytest.mark.parametrize("code", HOSTILE)
async def test_a_hostile_file_is_refused_with_its_code_and_leaves_nothing(code: str) -> None:
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    with pytest.raises(AdapterRefused) as caught:
        await publish(core, HOSTILE[code])
    assert caught.value.violations[0].reason == code
    assert not any("style" in key or "blobs" in key for key in store.objects)


async def test_every_finding_is_a_violation_of_its_own() -> None:
    core = await a_core_with_brand()
    tensors = diffusers(TABLE, {f"unet.{TO_Q}": 2})
    for i in range(3):
        tensors |= {f"unet.nowhere.{i}.{half}.weight": tensor([[1.0]]) for half in ("lora_A", "lora_B")}
    with pytest.raises(AdapterRefused) as caught:
        await publish(core, safetensors(tensors))
    assert [violation.reason for violation in caught.value.violations] == ["E_MODULE"] * 3


async def test_bytes_other_than_the_announced_ones_are_refused() -> None:
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    with pytest.raises(DigestMismatch):
        await publish(core, lora_file(), digest="0" * 64)
    assert not any("blobs" in key for key in store.objects)


@pytest.mark.parametrize("change", [-1, 1])
async def test_more_or_fewer_bytes_than_announced_are_refused(change: int) -> None:
    core = await a_core_with_brand()
    data = lora_file()
    with pytest.raises(AdapterRefused):
        await publish(core, data, size_bytes=len(data) + change)


async def test_racing_publishers_get_a_version_each_without_gaps() -> None:
    store = InMemoryObjectStore()
    await a_core_with_brand(store)
    replicas = [a_core(store, seed=seed) for seed in range(8)]
    published = await asyncio.gather(*(publish(core, lora_file(str(i))) for i, core in enumerate(replicas)))
    assert sorted(each.version.version for each in published) == list(range(1, 9))
    versions = (await a_core(store).catalog.list_versions("acme", "style", 100, "")).items
    assert {(each.version, each.digest) for each in versions} == {
        (each.version.version, each.version.digest) for each in published
    }


async def test_racing_publishers_of_one_file_make_one_version() -> None:
    store = InMemoryObjectStore()
    await a_core_with_brand(store)
    published = await asyncio.gather(*(publish(a_core(store, seed=seed), lora_file()) for seed in range(8)))
    assert [each.already_existed for each in published].count(False) == 1
    assert {each.version.version for each in published} == {1}


async def nothing_half_published(store: InMemoryObjectStore) -> int:
    """Asserts that every version there is can be fetched whole; returns how many there are."""
    core = a_core(store)
    try:
        versions = (await core.catalog.list_versions("acme", "style", 100, "")).items
    except AdapterNotFound:
        return 0
    for version in versions:
        pieces = [piece async for piece in await core.catalog.open("acme", version.digest)]
        assert sum(map(len, pieces)) == version.size_bytes
    return len(versions)


async def calls_of_a_publish() -> int:
    faulty = FaultyStore(InMemoryObjectStore())
    core = await a_core_with_brand(faulty)
    before = len(faulty.calls)
    await publish(core, lora_file(), request_id="r1")
    return len(faulty.calls) - before


@pytest.mark.parametrize("happened", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_store_call_leaves_nothing_half_visible_and_a_retry_succeeds(happened: bool) -> None:  # noqa: FBT001  # a parameter
    class Crash(BaseException):
        """The process is gone: nobody catches this."""

    calls = await calls_of_a_publish()
    assert calls >= 5
    for point in range(1, calls + 1):
        store = InMemoryObjectStore()
        faulty = FaultyStore(store)
        core = await a_core_with_brand(faulty)
        at = len(faulty.calls) + point

        def crash(name: str, number: int, at: int = at) -> None:
            if number == at:
                raise Crash

        setattr(faulty, "after" if happened else "before", crash)
        with pytest.raises(Crash):
            await publish(core, lora_file(), request_id="r1")
        assert await nothing_half_published(store) <= 1
        retried = await publish(a_core(store, seed=1), lora_file(), request_id="r1")
        assert (retried.version.version, retried.already_existed) == (1, False)
        assert await nothing_half_published(store) == 1


async def test_an_outage_at_any_store_call_is_an_error_that_a_retry_survives() -> None:
    for point in range(1, await calls_of_a_publish() + 1):
        store = InMemoryObjectStore()
        faulty = FaultyStore(store)
        core = await a_core_with_brand(faulty)
        at = len(faulty.calls) + point

        def fail(name: str, number: int, at: int = at) -> None:
            if number >= at:
                raise LostAnswer

        faulty.after = fail
        with pytest.raises(LooksmithError) as caught:
            await publish(core, lora_file(), request_id="r1")
        assert isinstance(caught.value, OutcomeUnknown if store_has_log(store) else StoreUnavailable)
        faulty.after = lambda name, number: None
        assert (await publish(core, lora_file(), request_id="r1")).version.version == 1
        assert await nothing_half_published(store) == 1


def store_has_log(store: InMemoryObjectStore) -> bool:
    return any("/log/" in key for key in store.objects)


async def test_a_lost_acknowledgement_does_not_double_a_version() -> None:
    store = InMemoryObjectStore()
    faulty = FaultyStore(store)
    core: Core = await a_core_with_brand(faulty)

    def lose(name: str, number: int) -> None:
        if name == "create_if_absent":
            raise LostAnswer

    faulty.after = lose
    published = [await publish(core, lora_file(str(n))) for n in range(3)]
    assert [each.version.version for each in published] == [1, 2, 3]
    assert not any(each.already_existed for each in published)


async def test_records_are_plain_json_that_names_the_blob() -> None:
    store = InMemoryObjectStore()
    core = await a_core_with_brand(store)
    data = lora_file()
    await core.publisher.publish(header_for(data), chunks(data))
    record = json.loads(next(value for key, value in store.objects.items() if "/log/" in key))
    assert record["state"]["versions"][0]["blob"] in store.objects
    assert record["event"]["kind"] == "published"
