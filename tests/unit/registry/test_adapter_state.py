"""Whatever happens to an adapter, its aliases and versions stay in step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looksmith.errors import InvalidField, LooksmithError, NotFound
from looksmith.nouns import AdapterManifest, AdapterRef, AdapterVersion, VersionState
from services.registry import adapter_state
from services.registry.adapter_state import (
    AdapterState,
    AliasSet,
    Event,
    StoredVersion,
    VersionYanked,
    alias_move,
    alias_rollback,
    already_published,
    pick,
    pick_served,
    publication,
    yank,
)
from services.registry.commit_log import Record
from services.registry.errors import AdapterYanked, NothingToRollBack, VersionAliased
from services.registry.messages import PublishHeader
from services.registry.records import ADAPTER

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANIFEST = AdapterManifest("tiny", "", "diffusers", 1, 1, (1,), ("unet",), convolutions=False)
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([(), ("canary",), ("production", "canary")])),
    st.tuples(st.just("move"), st.sampled_from(["production", "canary"]), st.integers(1, 5)),
    st.tuples(st.just("roll back"), st.sampled_from(["production", "canary"])),
    st.tuples(st.just("yank"), st.integers(1, 5), st.integers(0, 5), st.booleans()),
)


def a_version(n: int) -> StoredVersion:
    return StoredVersion(AdapterVersion("acme", "style", 0, f"{n:064x}", 1, MANIFEST, NOW), f"blob-{n}")


def style(pick: int | str = "production") -> AdapterRef:
    return AdapterRef("acme", "style", pick)


def event_of(state: AdapterState | None, step: tuple[object, ...], n: int) -> Event | None:
    """What a step does; None: it changes nothing, or is refused."""
    try:
        match step:
            case ("publish", tuple(aliases)):
                return publication(state, a_version(n), aliases)
            case ("move", str(alias), int(version)) if state:
                return alias_move(state, alias, style(version))
            case ("roll back", str(alias)) if state:
                return alias_rollback(state, "acme", "style", alias)
            case ("yank", int(version), int(replacement), bool(force)) if state:
                return yank(state, style(version), replacement=replacement, force=force, reason="bad")
    except (NotFound, NothingToRollBack, InvalidField, AdapterYanked, VersionAliased):
        pass
    return None


@given(st.lists(STEPS, max_size=30))
def test_numbers_have_no_gaps_aliases_name_versions_and_rollback_undoes_the_last_move(
    steps: list[tuple[object, ...]],
) -> None:
    state: AdapterState | None = None
    moves: dict[str, list[int]] = {}
    for n, step in enumerate(steps):
        event = event_of(state, step, n)
        if event is None:
            continue
        if step[0] == "roll back":
            assert isinstance(event, AliasSet)
            assert event.version == moves[event.alias][-2]
        state = adapter_state.apply(state, event, n, NOW)
        for named in state.all_aliases():
            if moves.setdefault(named.name, [0])[-1] != named.version:
                moves[named.name].append(named.version)
        assert [stored.version.version for stored in state.versions] == list(range(1, len(state.versions) + 1))
        assert all(1 <= alias.version <= len(state.versions) for alias in state.all_aliases())
        assert "production" in state.aliases or "canary" in state.aliases


@given(st.lists(STEPS, max_size=30))
def test_what_is_yanked_stays_yanked_and_only_aliases_that_force_left_behind_name_it(
    steps: list[tuple[object, ...]],
) -> None:
    state: AdapterState | None = None
    yanked: set[int] = set()
    for n, step in enumerate(steps):
        event = event_of(state, step, n)
        if event is None:
            continue
        left_behind = {alias.name for alias in state.all_aliases() if alias.version in yanked} if state else set()
        if state and isinstance(event, VersionYanked):
            yanked.add(event.version)
            left_behind |= set(() if event.replacement else state.aliases_of(event.version))
        state = adapter_state.apply(state, event, n, NOW)
        assert {stored.version.version for stored in state.versions if stored.is_yanked} == yanked
        assert {alias.name for alias in state.all_aliases() if alias.version in yanked} <= left_behind


# Yanking


def after(state: AdapterState | None, event: Event | None, time: datetime = NOW) -> AdapterState:
    assert event
    return adapter_state.apply(state, event, 1, time)


@pytest.fixture
def state() -> AdapterState:
    """Three versions; the first in production, the second in canary, the third without an alias."""
    state = after(None, publication(None, a_version(1), ()))
    for n, aliases in ((2, ("canary",)), (3, ())):
        state = after(state, publication(state, a_version(n), aliases))
    return state


def forced(state: AdapterState, version: int) -> AdapterState:
    return after(state, yank(state, style(version), force=True, reason="bad"))


def test_a_version_without_aliases_is_yanked_and_no_other_one_is(state: AdapterState) -> None:
    yanked = after(state, yank(state, style(3), reason="the old logo"))
    assert [stored.version.state for stored in yanked.versions] == ["ready", "ready", "yanked"]
    assert yanked.aliases == state.aliases
    assert replace(yanked.versions[2].version, state=VersionState.READY) == state.versions[2].version


def test_an_aliased_version_is_yanked_only_with_a_replacement_or_by_force(state: AdapterState) -> None:
    with pytest.raises(VersionAliased) as caught:
        yank(state, style(1), reason="bad")
    assert caught.value.metadata == {"adapter": "acme/style@1", "aliases": "production"}
    assert "production" in caught.value.message
    assert yank(state, style(1), replacement=3, reason="bad") == VersionYanked(1, 3, force=False, reason="bad")
    assert yank(state, style(1), force=True, reason="bad") == VersionYanked(1, 0, force=True, reason="bad")


def test_a_replacement_takes_all_aliases_of_the_yanked_version_and_they_remember_it(state: AdapterState) -> None:
    state = after(state, alias_move(state, "staging", style(1)))
    moved = after(state, yank(state, style(1), replacement=3, reason="bad"), NOW + timedelta(minutes=1))
    assert {name: (alias.version, alias.previous_version) for name, alias in moved.aliases.items()} == {
        "production": (3, 1),
        "staging": (3, 1),
        "canary": (2, 0),
    }
    assert moved.aliases["production"].update_time == NOW + timedelta(minutes=1)
    assert moved.aliases["canary"] == state.aliases["canary"]


def test_by_force_the_aliases_stay_and_what_they_name_is_refused(state: AdapterState) -> None:
    yanked = forced(state, 1)
    assert yanked.aliases == state.aliases
    assert pick(yanked, style()).version.version == 1
    with pytest.raises(AdapterYanked) as caught:
        pick_served(yanked, style())
    assert "'production'" in caught.value.message
    assert pick_served(yanked, style("canary")).version.version == 2


def test_a_yanked_version_is_refused_by_number_and_digest_too(state: AdapterState) -> None:
    yanked = forced(state, 3)
    for ref in (style(3), style(f"{3:064x}")):
        with pytest.raises(AdapterYanked) as caught:
            pick_served(yanked, ref)
        assert caught.value.metadata == {"adapter": "acme/style@3"}


@pytest.mark.parametrize("again", [{}, {"replacement": 2}])
def test_yanking_twice_changes_nothing(state: AdapterState, again: dict[str, int]) -> None:
    once = after(state, yank(state, style(1), replacement=2, reason="bad"))
    assert yank(once, style(1), reason="worse", **again) is None  # type: ignore[arg-type]  # fields by name


def test_only_force_withdraws_a_version_and_may_come_later(state: AdapterState) -> None:
    once = after(state, yank(state, style(1), replacement=2, reason="bad"))
    assert once.withdrawn() == ()
    twice = after(once, yank(once, style(1), force=True, reason="worse"))
    assert twice.withdrawn() == (1,)
    assert yank(twice, style(1), force=True, reason="worse") is None


@pytest.mark.parametrize("force", [False, True])
def test_yanking_twice_changes_nothing_where_force_left_aliases_behind(state: AdapterState, *, force: bool) -> None:
    assert yank(forced(state, 1), style(1), force=force, reason="bad") is None


def test_a_late_repetition_of_a_yank_changes_nothing_though_its_replacement_was_yanked_since(
    state: AdapterState,
) -> None:
    state = after(state, yank(state, style(1), replacement=2, reason="bad"))
    state = after(state, yank(state, style(2), replacement=3, reason="bad too"))
    assert yank(state, style(1), replacement=2, reason="bad") is None


def test_aliases_that_force_left_behind_move_when_it_is_yanked_again_with_a_replacement(state: AdapterState) -> None:
    by_force = forced(state, 1)
    moved = after(by_force, yank(by_force, style(1), replacement=2, reason="bad"))
    assert pick_served(moved, style()).version.version == 2


def test_what_a_yank_does_not_find_or_may_not_use_is_named_by_its_field(state: AdapterState) -> None:
    state = forced(state, 3)
    for version, replacement, reason, fields in (
        (4, 0, "VERSION_NOT_FOUND", []),
        (1, 4, "VERSION_NOT_FOUND", ["replacement"]),
        (1, 1, "INVALID_ARGUMENT", ["replacement"]),
        (1, 3, "ADAPTER_YANKED", ["replacement"]),
    ):
        with pytest.raises(LooksmithError) as caught:
            yank(state, style(version), replacement=replacement, force=True, reason="bad")
        assert (caught.value.reason, [violation.field for violation in caught.value.violations]) == (reason, fields)


def test_no_alias_can_be_moved_to_a_yanked_version_not_even_the_one_that_names_it(state: AdapterState) -> None:
    yanked = forced(state, 1)
    for alias, target in (("canary", style(1)), ("production", style(1)), ("new", style("production"))):
        with pytest.raises(AdapterYanked):
            alias_move(yanked, alias, target)


def test_an_alias_that_names_a_yanked_version_moves_off_it_and_cannot_be_rolled_back_onto_it(
    state: AdapterState,
) -> None:
    yanked = forced(state, 1)
    moved = after(yanked, alias_move(yanked, "production", style(2), expected=1))
    assert pick_served(moved, style()).version.version == 2
    with pytest.raises(AdapterYanked):
        alias_rollback(moved, "acme", "style", "production")


def test_an_alias_can_be_rolled_back_off_a_yanked_version(state: AdapterState) -> None:
    promoted = after(state, alias_move(state, "production", style(3)))
    yanked = forced(promoted, 3)
    back = after(yanked, alias_rollback(yanked, "acme", "style", "production"))
    assert pick_served(back, style()).version.version == 1


def test_bytes_of_a_yanked_version_are_refused_but_the_request_that_published_them_gets_its_version() -> None:
    first = replace(a_version(1), request_id="r1")
    state = forced(after(None, publication(None, first, ())), 1)
    header = PublishHeader("acme", "style", "tiny", f"{1:064x}", 1, request_id="r1")
    again = already_published(state, header)
    assert again
    assert (again.version.version, again.version.state, again.already_existed) == (1, VersionState.YANKED, False)
    for other in ("", "r2"):
        with pytest.raises(AdapterYanked) as caught:
            already_published(state, replace(header, request_id=other))
        assert [violation.field for violation in caught.value.violations] == ["digest"]


def test_a_record_of_a_yank_is_read_as_it_was_written_and_one_from_before_yanks_is_read_still(
    state: AdapterState,
) -> None:
    event = yank(state, style(1), replacement=2, reason="bad")
    assert event
    record: Record[Event, AdapterState] = Record(4, "", "t", "w", NOW, event, after(state, event))
    assert ADAPTER.records.validate_json(ADAPTER.records.dump_json(record)) == record
    older: Record[Event, AdapterState] = Record(3, "", "t", "w", NOW, publication(None, a_version(1), ()), state)
    data = ADAPTER.records.dump_json(older).replace(b',"yank_seq":0', b"")
    assert b"yank" not in data
    assert ADAPTER.records.validate_json(data) == older
