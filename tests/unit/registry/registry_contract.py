"""What a registry must do for its callers; run over the fake and over a client of a real server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import ANY

import pytest

from looksmith.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LooksmithError,
    NotFound,
    OutOfRange,
)
from looksmith.nouns import AdapterRef, AdapterUse, Brand, BrandLimits, VersionState
from services.registry.client import (
    BrandErased,
    Changed,
    FakeRegistryClient,
    InSnapshot,
    RegistryClient,
    SnapshotEnd,
)
from services.registry.messages import EventKind, Page, UploadState
from tests.unit.registry.parts import header_for, lora_file

Registry = RegistryClient | FakeRegistryClient

STYLE = AdapterRef("acme", "style")
LOOK = Brand(
    "acme",
    display_name="Acme",
    default_adapters=(AdapterUse("style", 3, 0.5), AdapterUse("logo")),
    prompt_template="{prompt}, in Acme's look",
    negative_prompt="blurry",
    recipe="fast",
    fair_share_weight=2.5,
    limits=BrandLimits(max_queued_jobs=5, max_stored_bytes=1 << 20),
    default_width=768,
    default_height=512,
)


class RegistryContract:
    """Subclasses give the fixture ``registry``, an empty one."""

    @pytest.fixture
    async def acme(self, registry: Registry) -> Registry:
        """The registry with two versions of acme/style, the first in production."""
        await registry.put_brand(Brand("acme"))
        for note in ("1", "2"):
            data = lora_file(note)
            await registry.publish(header_for(data, note=note, publisher="ann"), [data])
        return registry

    # Brands

    async def test_a_deleted_brand_is_gone_and_its_name_begins_anew_with_other_numbers(self, acme: Registry) -> None:
        with pytest.raises(FailedPrecondition) as unconfirmed:
            await acme.delete_brand("acme", confirm_name="Acme")
        assert unconfirmed.value.reason == "CONFIRMATION_MISSING"
        freed = await acme.delete_brand("acme", confirm_name="acme")
        assert freed == sum(len(lora_file(note)) for note in ("1", "2"))
        assert await acme.delete_brand("acme", confirm_name="acme") == 0
        for asked in (
            acme.get_brand("acme"),
            acme.get_adapter("acme", "style"),
            acme.resolve(STYLE),
            acme.resolve(AdapterRef("acme", "style", 1)),
            acme.history("acme", "style"),
            acme.publish(header_for(lora_file("3")), [lora_file("3")]),
            acme.promote(AdapterRef("acme", "style", 2)),
            acme.delete_brand("bolt", confirm_name="bolt"),
        ):
            with pytest.raises(NotFound):
                await asked
        with pytest.raises(NotFound):
            _ = [chunk async for chunk in acme.download("acme", header_for(lora_file("1")).digest)]
        assert (await acme.list_brands()).items == ()
        assert (await acme.list_adapters()).items == ()
        await acme.put_brand(Brand("acme"), expected_version=0)
        published = await acme.publish(header_for(lora_file("2")), [lora_file("2")])
        assert (published.version.version, published.aliases) == (3, ("production",))
        assert [version.version for version in (await acme.list_versions("acme", "style")).items] == [3]
        with pytest.raises(NotFound):
            await acme.resolve(AdapterRef("acme", "style", 2))
        kinds = [event.kind for event in (await acme.history("acme", "style")).items]
        assert kinds == [EventKind.PUBLISHED, EventKind.ERASED, EventKind.PUBLISHED, EventKind.PUBLISHED]

    async def test_a_brand_comes_back_as_it_was_put(self, registry: Registry) -> None:
        stored = await registry.put_brand(LOOK)
        assert stored == await registry.get_brand("acme")
        assert stored == replace(LOOK, version=1, update_time=stored.update_time)
        assert stored.update_time is not None

    async def test_a_put_with_another_version_than_expected_is_aborted_and_names_the_one_there_is(
        self, registry: Registry
    ) -> None:
        assert (await registry.put_brand(LOOK, expected_version=0)).version == 1
        assert (await registry.put_brand(LOOK, expected_version=1)).version == 2
        assert (await registry.put_brand(LOOK)).version == 3
        for expected in (0, 2):
            with pytest.raises(Aborted) as caught:
                await registry.put_brand(LOOK, expected_version=expected)
            assert (caught.value.reason, caught.value.metadata) == ("BRAND_VERSION_MISMATCH", {"version": "3"})

    async def test_of_racing_puts_that_expect_the_same_version_one_wins(self, registry: Registry) -> None:
        puts = (registry.put_brand(LOOK, expected_version=0) for _ in range(4))
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert sum(isinstance(result, Brand) for result in results) == 1
        assert sum(isinstance(result, Aborted) for result in results) == 3

    async def test_an_unknown_brand_is_not_found(self, registry: Registry) -> None:
        with pytest.raises(NotFound) as caught:
            await registry.get_brand("acme")
        assert caught.value.reason == "BRAND_NOT_FOUND"

    async def test_brands_are_listed_by_name_a_page_at_a_time(self, registry: Registry) -> None:
        for name in ("bolt", "acme-x", "acme", "acme0"):
            await registry.put_brand(Brand(name))
        first = await registry.list_brands(page_size=3)
        rest = await registry.list_brands(page_size=3, page_token=first.next_token)
        assert [brand.name for brand in first.items] == ["acme", "acme-x", "acme0"]
        assert ([brand.name for brand in rest.items], rest.next_token) == (["bolt"], "")

    # Publishing and fetching

    async def test_what_was_published_is_resolved_and_fetched_byte_for_byte(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        await registry.put_brand(Brand("acme"))
        data = lora_file()
        (tmp_path / "lora").write_bytes(data)
        progress: list[int] = []
        header = header_for(data, publisher="ann", note="warm", labels={"team": "x"}, request_id="r1")
        published = await registry.publish(header, tmp_path / "lora", on_progress=progress.append)
        assert (published.version.version, published.already_existed, published.aliases) == (1, False, ("production",))
        resolved = await registry.resolve(STYLE)
        assert (resolved.version, resolved.seq, resolved.stale_since) == (published.version, 1, None)
        assert resolved.version.labels == {"team": "x"}
        got = b"".join([piece async for piece in registry.download("acme", resolved.version.digest)])
        assert got == data
        assert progress[-1] == len(data)

    async def test_of_a_request_nothing_is_held_before_it_is_published_and_all_of_it_afterwards(
        self, registry: Registry
    ) -> None:
        data = lora_file()
        for brand in ("acme", "bolt"):
            await registry.put_brand(Brand(brand))
            with pytest.raises(NotFound) as caught:
                await registry.get_upload(brand, "r")
            assert caught.value.reason == "UPLOAD_NOT_FOUND"
        await registry.publish(header_for(data, request_id="r"), [data])
        assert await registry.get_upload("acme", "r") == UploadState(len(data))
        with pytest.raises(NotFound):
            await registry.get_upload("bolt", "r")

    async def test_part_of_a_file_can_be_fetched(self, acme: Registry) -> None:
        data = lora_file("1")
        digest = header_for(data).digest
        got = b"".join([piece async for piece in acme.download("acme", digest, offset=7, limit=20)])
        assert got == data[7:27]
        with pytest.raises(OutOfRange):
            [piece async for piece in acme.download("acme", digest, offset=len(data))]

    async def test_a_file_of_another_brand_or_of_nobody_is_not_found(self, acme: Registry) -> None:
        for brand, digest in (("bolt", header_for(lora_file("1")).digest), ("acme", "0" * 64)):
            with pytest.raises(NotFound) as caught:
                [piece async for piece in acme.download(brand, digest)]
            assert caught.value.reason == "DIGEST_NOT_FOUND"

    async def test_the_same_file_again_is_no_new_version(self, acme: Registry) -> None:
        data = lora_file("1")
        again = await acme.publish(header_for(data), [data])
        assert (again.version.version, again.already_existed, again.aliases) == (1, True, ("production",))

    async def test_a_request_id_that_stood_for_another_file_is_refused(self, acme: Registry) -> None:
        one, other = lora_file("3"), lora_file("4")
        await acme.publish(header_for(one, request_id="r"), [one])
        with pytest.raises(AlreadyExists) as caught:
            await acme.publish(header_for(other, request_id="r"), [other])
        assert caught.value.reason == "REQUEST_ID_REUSED"

    async def test_bytes_other_than_announced_are_data_loss(self, acme: Registry) -> None:
        data = lora_file("3")
        with pytest.raises(DataLoss) as caught:
            await acme.publish(header_for(data, digest="0" * 64), [data])
        assert caught.value.reason == "DIGEST_MISMATCH"

    async def test_a_cut_file_is_an_invalid_argument_with_its_code(self, acme: Registry) -> None:
        data = lora_file("3")
        with pytest.raises(InvalidArgument) as caught:
            await acme.publish(header_for(data), [data[:-1]])
        assert (caught.value.reason, caught.value.violations[0].reason) == ("ADAPTER_REFUSED", "E_SIZE")

    async def test_publishing_for_an_unknown_brand_is_not_found(self, registry: Registry) -> None:
        with pytest.raises(NotFound) as caught:
            await registry.publish(header_for(lora_file()), [lora_file()])
        assert caught.value.reason == "BRAND_NOT_FOUND"

    # References

    async def test_a_version_is_found_by_alias_number_and_digest(self, acme: Registry) -> None:
        digests = [header_for(lora_file(note)).digest for note in ("1", "2")]
        for pick, version in (("production", 1), (1, 1), (2, 2), (digests[0], 1), (digests[1], 2)):
            resolved = await acme.resolve(AdapterRef("acme", "style", pick))
            assert (resolved.version.version, resolved.version.digest) == (version, digests[version - 1])

    @pytest.mark.parametrize(
        ("ref", "reason"),
        [
            (AdapterRef("acme", "logo"), "ADAPTER_NOT_FOUND"),
            (AdapterRef("bolt", "style"), "ADAPTER_NOT_FOUND"),
            (AdapterRef("acme", "style", "canary"), "ALIAS_NOT_FOUND"),
            (AdapterRef("acme", "style", 3), "VERSION_NOT_FOUND"),
            (AdapterRef("acme", "style", "0" * 64), "DIGEST_NOT_FOUND"),
        ],
    )
    async def test_what_a_reference_does_not_find_is_named(self, acme: Registry, ref: AdapterRef, reason: str) -> None:
        with pytest.raises(NotFound) as caught:
            await acme.resolve(ref)
        assert caught.value.reason == reason

    # Aliases

    async def test_promoting_moves_production_and_rolling_back_moves_it_back(self, acme: Registry) -> None:
        promoted = await acme.promote(AdapterRef("acme", "style", 2), expected_version=1, reason="better")
        assert (promoted.alias.version, promoted.previous_version, promoted.seq) == (2, 1, 3)
        assert (await acme.resolve(STYLE, min_seq=promoted.seq)).version.version == 2
        with pytest.raises(Aborted) as moved:
            await acme.rollback("acme", "style", expected_version=1)
        assert moved.value.reason == "ALIAS_MOVED"
        back = await acme.rollback("acme", "style", expected_version=2, reason="worse")
        assert (back.alias.name, back.alias.version, back.previous_version, back.seq) == ("production", 1, 2, 4)
        assert (await acme.resolve(STYLE)).version.version == 1

    async def test_an_alias_moves_only_from_the_version_that_was_expected(self, acme: Registry) -> None:
        created = await acme.set_alias("acme", "style", "canary", 2, expected_version=0)
        assert (created.alias.version, created.previous_version) == (2, 0)
        for expected in (0, 1):
            with pytest.raises(Aborted) as caught:
                await acme.set_alias("acme", "style", "canary", 1, expected_version=expected)
            assert (caught.value.reason, caught.value.metadata) == ("ALIAS_MOVED", {"version": "2"})
        with pytest.raises(NotFound):
            await acme.set_alias("acme", "style", "canary", 3)

    async def test_setting_an_alias_to_what_it_names_changes_nothing(self, acme: Registry) -> None:
        move = await acme.set_alias("acme", "style", "production", 1)
        assert (move.alias.version, move.previous_version, move.seq) == (1, 1, 2)

    async def test_an_alias_that_never_moved_cannot_be_rolled_back(self, acme: Registry) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            await acme.rollback("acme", "style")
        assert caught.value.reason == "NOTHING_TO_ROLL_BACK"
        with pytest.raises(NotFound):
            await acme.rollback("acme", "style", alias="canary")

    # Yanking

    async def test_yanking_an_aliased_version_wants_a_replacement_or_force(self, acme: Registry) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            await acme.yank("acme", "style", 1, reason="the old logo")
        assert (caught.value.reason, caught.value.metadata["aliases"]) == ("VERSION_ALIASED", "production")
        assert (await acme.resolve(STYLE)).seq == 2

    async def test_a_replacement_takes_the_aliases_of_a_yanked_version(self, acme: Registry) -> None:
        yanked = await acme.yank("acme", "style", 1, replacement=2, reason="the old logo")
        assert (yanked.version.version, yanked.version.state, yanked.seq) == (1, VersionState.YANKED, 3)
        assert (await acme.resolve(STYLE, min_seq=3)).version.version == 2
        with pytest.raises(FailedPrecondition) as caught:
            await acme.rollback("acme", "style")
        assert caught.value.reason == "ADAPTER_YANKED"

    async def test_a_yanked_version_is_refused_by_alias_number_and_digest_and_its_file_is_not(
        self, acme: Registry
    ) -> None:
        data = lora_file("1")
        await acme.yank("acme", "style", 1, force=True, reason="the old logo")
        for pick in ("production", 1, header_for(data).digest):
            with pytest.raises(FailedPrecondition) as caught:
                await acme.resolve(AdapterRef("acme", "style", pick))
            assert (caught.value.reason, caught.value.metadata) == ("ADAPTER_YANKED", {"adapter": "acme/style@1"})
        assert (await acme.resolve(AdapterRef("acme", "style", 2))).version.version == 2
        assert b"".join([piece async for piece in acme.download("acme", header_for(data).digest)]) == data

    async def test_yanking_twice_is_answered_alike_and_makes_no_record(self, acme: Registry) -> None:
        once = await acme.yank("acme", "style", 2, reason="the old logo")
        await acme.set_alias("acme", "style", "canary", 1)
        assert await acme.yank("acme", "style", 2, reason="the old logo") == once
        assert (await acme.get_adapter("acme", "style")).seq == once.seq + 1

    async def test_no_alias_moves_to_a_yanked_version(self, acme: Registry) -> None:
        await acme.yank("acme", "style", 2, reason="the old logo")
        for call in (acme.promote(AdapterRef("acme", "style", 2)), acme.set_alias("acme", "style", "canary", 2)):
            with pytest.raises(FailedPrecondition) as caught:
                await call
            assert caught.value.reason == "ADAPTER_YANKED"
        assert [alias.name for alias in (await acme.get_adapter("acme", "style")).aliases] == ["production"]

    @pytest.mark.parametrize(
        ("version", "replacement", "said", "error", "reason", "field"),
        [
            (2, 0, "", InvalidArgument, "INVALID_ARGUMENT", "reason"),
            (2, 0, " \n", InvalidArgument, "INVALID_ARGUMENT", "reason"),
            (2, 0, "x" * 2001, InvalidArgument, "INVALID_ARGUMENT", "reason"),
            (0, 0, "bad", InvalidArgument, "INVALID_ARGUMENT", "version"),
            (2, 2, "bad", InvalidArgument, "INVALID_ARGUMENT", "replacement"),
            (2, 9, "bad", NotFound, "VERSION_NOT_FOUND", "replacement"),
            (9, 0, "bad", NotFound, "VERSION_NOT_FOUND", None),
        ],
    )
    async def test_what_is_wrong_with_a_yank_is_named(
        self,
        acme: Registry,
        *,
        version: int,
        replacement: int,
        said: str,
        error: type[LooksmithError],
        reason: str,
        field: str | None,
    ) -> None:
        with pytest.raises(error) as caught:
            await acme.yank("acme", "style", version, replacement=replacement, reason=said)
        assert caught.value.reason == reason
        assert [violation.field for violation in caught.value.violations] == ([field] if field else [])
        assert (await acme.get_adapter("acme", "style")).seq == 2

    async def test_a_yanked_version_replaces_none(self, acme: Registry) -> None:
        await acme.yank("acme", "style", 2, reason="the old logo")
        with pytest.raises(FailedPrecondition) as caught:
            await acme.yank("acme", "style", 1, replacement=2, reason="the old logo")
        assert (caught.value.reason, caught.value.violations[0].field) == ("ADAPTER_YANKED", "replacement")

    async def test_yanking_what_was_never_published_is_not_found(self, acme: Registry) -> None:
        with pytest.raises(NotFound) as caught:
            await acme.yank("acme", "logo", 1, reason="the old logo")
        assert caught.value.reason == "ADAPTER_NOT_FOUND"

    async def test_the_bytes_of_a_yanked_version_are_not_published_again(self, acme: Registry) -> None:
        data = lora_file("3")
        await acme.publish(header_for(data, request_id="r"), [data])
        await acme.yank("acme", "style", 3, reason="the old logo")
        with pytest.raises(FailedPrecondition) as caught:
            await acme.publish(header_for(data), [data])
        assert (caught.value.reason, caught.value.violations[0].field) == ("ADAPTER_YANKED", "digest")
        repeated = await acme.publish(header_for(data, request_id="r"), [data])
        assert (repeated.version.version, repeated.already_existed) == (3, False)
        assert repeated.version.state is VersionState.YANKED

    async def test_lists_and_history_show_a_yanked_version_and_why(self, acme: Registry) -> None:
        await acme.yank("acme", "style", 1, replacement=2, reason="the old logo")
        states = [version.state for version in (await acme.list_versions("acme", "style")).items]
        assert states == [VersionState.READY, VersionState.YANKED]
        newest = (await acme.history("acme", "style")).items[0]
        assert (newest.kind, newest.version, newest.reason) == (EventKind.YANKED, 1, "the old logo")
        assert [(alias.name, alias.version) for alias in newest.aliases] == [("production", 2)]

    # Lists

    async def test_adapters_are_listed_by_brand_and_name_a_page_at_a_time(self, registry: Registry) -> None:
        names = [("acme", "logo"), ("acme", "style"), ("acme-x", "style"), ("bolt", "style")]
        for brand, adapter in reversed(names):
            await registry.put_brand(Brand(brand))
            await registry.publish(header_for(lora_file(), brand=brand, adapter=adapter), [lora_file()])
        pages = [await registry.list_adapters(page_size=3)]
        pages.append(await registry.list_adapters(page_size=3, page_token=pages[0].next_token))
        assert [(each.brand, each.name) for page in pages for each in page.items] == names
        assert pages[1].next_token == ""
        only = await registry.list_adapters("acme")
        assert [each.name for each in only.items] == ["logo", "style"]
        assert await registry.list_adapters("nobody") == Page(())

    async def test_versions_are_listed_newest_first_a_page_at_a_time(self, acme: Registry) -> None:
        first = await acme.list_versions("acme", "style", page_size=1)
        rest = await acme.list_versions("acme", "style", page_size=1, page_token=first.next_token)
        assert [version.version for version in (*first.items, *rest.items)] == [2, 1]
        assert (rest.items[0].note, rest.next_token) == ("1", "")

    async def test_an_adapter_tells_its_newest_version_and_its_aliases(self, acme: Registry) -> None:
        adapter = await acme.get_adapter("acme", "style")
        assert (adapter.latest_version, adapter.seq, adapter.brand, adapter.name) == (2, 2, "acme", "style")
        assert [(alias.name, alias.version) for alias in adapter.aliases] == [("production", 1)]
        assert adapter.create_time <= adapter.update_time

    async def test_history_tells_every_change_newest_first_with_who_and_why(self, acme: Registry) -> None:
        await acme.promote(AdapterRef("acme", "style", 2), reason="better")
        first = await acme.history("acme", "style", page_size=2)
        rest = await acme.history("acme", "style", page_size=2, page_token=first.next_token)
        events = [*first.items, *rest.items]
        assert [(event.seq, event.kind, event.version) for event in events] == [
            (3, EventKind.ALIAS_SET, 2),
            (2, EventKind.PUBLISHED, 2),
            (1, EventKind.PUBLISHED, 1),
        ]
        moved = events[0]
        assert (moved.alias, moved.previous_version, moved.reason) == ("production", 1, "better")
        assert (events[1].actor, events[1].reason) == ("ann", "2")
        assert [[alias.version for alias in event.aliases] for event in events] == [[2], [1], [1]]

    async def test_history_tells_what_was_in_force_at_a_time(self, acme: Registry) -> None:
        newest = (await acme.history("acme", "style")).items[0]
        then = await acme.history("acme", "style", at_time=newest.time, page_size=1)
        assert then.items[0] == newest
        before = await acme.history("acme", "style", at_time=datetime(2000, 1, 1, tzinfo=UTC))
        assert before == Page(())

    async def test_a_page_token_of_another_list_is_refused(self, acme: Registry) -> None:
        token = (await acme.list_versions("acme", "style", page_size=1)).next_token
        for call in (
            acme.list_brands(page_token=token),
            acme.list_adapters(page_token=token),
            acme.history("acme", "style", page_token=token),
            acme.list_versions("acme", "style", page_token="nonsense"),  # noqa: S106  # no password
        ):
            with pytest.raises(LooksmithError) as caught:
                await call
            assert caught.value.violations[0].field == "page_token"

    # Watching

    async def test_a_watch_tells_what_there_is_then_every_change_and_goes_on_from_a_cursor(
        self, acme: Registry
    ) -> None:
        async with asyncio.timeout(5), aclosing(acme.watch()) as messages:
            first, end = await anext(messages), await anext(messages)
            assert (first, end) == (InSnapshot(await acme.get_adapter("acme", "style"), ""), SnapshotEnd(1, end.cursor))
            await acme.yank("acme", "style", 1, force=True, reason="the old logo")
            changed = await anext(messages)
            assert isinstance(changed, Changed)
            assert changed.adapter.withdrawn_versions == (1,)
        await acme.promote(AdapterRef("acme", "style", 2))
        async with asyncio.timeout(5), aclosing(acme.watch(cursor=changed.cursor)) as messages:
            assert await anext(messages) == Changed(await acme.get_adapter("acme", "style"), ANY)

    async def test_a_watch_tells_which_files_of_an_erased_brand_are_to_be_dropped(self, acme: Registry) -> None:
        digests = {version.digest for version in (await acme.list_versions("acme", "style")).items}
        async with asyncio.timeout(10), aclosing(acme.watch()) as messages:
            while not isinstance(await anext(messages), SnapshotEnd):
                pass
            await acme.delete_brand("acme", confirm_name="acme")
            while not isinstance(erased := await anext(messages), BrandErased):
                pass
        assert (erased.brand, set(erased.digests)) == ("acme", digests)

    async def test_a_watch_of_one_brand_tells_of_no_other_and_one_of_no_name_is_refused(self, acme: Registry) -> None:
        async with asyncio.timeout(5), aclosing(acme.watch("zenith")) as messages:
            assert await anext(messages) == SnapshotEnd(0, ANY)
        with pytest.raises(InvalidArgument) as caught:
            await anext(acme.watch("Zenith"))
        assert caught.value.violations[0].field == "brand"
