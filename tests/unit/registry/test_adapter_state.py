"""Whatever happens to an adapter, its aliases and versions stay in step."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from looksmith.errors import NotFound
from looksmith.nouns import AdapterManifest, AdapterRef, AdapterVersion
from services.registry import adapter_state
from services.registry.adapter_state import AdapterState, StoredVersion, alias_move, alias_rollback, publication
from services.registry.errors import NothingToRollBack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANIFEST = AdapterManifest("tiny", "", "diffusers", 1, 1, (1,), ("unet",), convolutions=False)
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([(), ("canary",), ("production", "canary")])),
    st.tuples(st.just("move"), st.sampled_from(["production", "canary"]), st.integers(1, 5)),
    st.tuples(st.just("roll back"), st.sampled_from(["production", "canary"])),
)


def a_version(n: int) -> StoredVersion:
    return StoredVersion(AdapterVersion("acme", "style", 0, f"{n:064x}", 1, MANIFEST, NOW), f"blob-{n}")


@given(st.lists(STEPS, max_size=30))
def test_numbers_have_no_gaps_aliases_name_versions_and_rollback_undoes_the_last_move(
    steps: list[tuple[object, ...]],
) -> None:
    state: AdapterState | None = None
    moves: dict[str, list[int]] = {}
    for n, step in enumerate(steps):
        try:
            match step:
                case ("publish", tuple(aliases)):
                    event: object = publication(state, a_version(n), aliases)
                case _ if state is None:
                    continue
                case ("move", str(alias), int(version)):
                    event = alias_move(state, alias, AdapterRef("acme", "style", version))
                case ("roll back", str(alias)):
                    event = alias_rollback(state, "acme", "style", alias)
                    assert event.version == moves[alias][-2]
        except (NotFound, NothingToRollBack):
            continue
        if event is None:
            continue
        assert isinstance(event, adapter_state.VersionPublished | adapter_state.AliasSet)
        state = adapter_state.apply(state, event, n, NOW)
        for named in state.all_aliases():
            if moves.setdefault(named.name, [0])[-1] != named.version:
                moves[named.name].append(named.version)
        assert [stored.version.version for stored in state.versions] == list(range(1, len(state.versions) + 1))
        assert all(1 <= alias.version <= len(state.versions) for alias in state.all_aliases())
        assert "production" in state.aliases or "canary" in state.aliases
