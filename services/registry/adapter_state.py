"""The rules of an adapter's versions and aliases, as pure functions: state + event -> state, and what may be asked.

Knows nothing about logs, stores or time beyond what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from looksmith.nouns import PRODUCTION, AdapterRef, AdapterVersion, Alias
from services.registry.errors import (
    AliasMoved,
    AliasNotFound,
    DigestNotFound,
    NothingToRollBack,
    RequestIdReused,
    VersionNotFound,
)
from services.registry.messages import Published, PublishHeader


@dataclass(frozen=True)
class StoredVersion:
    """A version, the key under which its file lies, and the request that published it."""

    version: AdapterVersion
    blob: str
    request_id: str = ""


@dataclass(frozen=True)
class StoredAlias:
    """An alias and the version that it named before; 0: none."""

    version: int
    previous_version: int
    update_time: datetime


@dataclass(frozen=True)
class AdapterState:
    """All there is to know of an adapter at one point of its log."""

    create_time: datetime
    versions: tuple[StoredVersion, ...] = ()  # number n at place n - 1
    aliases: Mapping[str, StoredAlias] = field(default_factory=dict)

    def alias(self, name: str) -> Alias:
        return Alias(name, self.aliases[name].version, self.aliases[name].update_time)

    def all_aliases(self) -> tuple[Alias, ...]:
        return tuple(self.alias(name) for name in sorted(self.aliases))

    def aliases_of(self, version: int) -> tuple[str, ...]:
        return tuple(alias.name for alias in self.all_aliases() if alias.version == version)

    def with_digest(self, digest: str) -> StoredVersion | None:
        return next((stored for stored in self.versions if stored.version.digest == digest), None)


@dataclass(frozen=True)
class VersionPublished:
    stored: StoredVersion
    aliases: tuple[str, ...]
    kind: Literal["published"] = "published"


@dataclass(frozen=True)
class AliasSet:
    alias: str
    version: int
    previous_version: int
    reason: str = ""
    kind: Literal["alias_set"] = "alias_set"


Event = Annotated[VersionPublished | AliasSet, Field(discriminator="kind")]


def apply(state: AdapterState | None, event: VersionPublished | AliasSet, _seq: int, time: datetime) -> AdapterState:
    """What an event makes of a state; None: the adapter had no record yet."""
    state = state or AdapterState(create_time=time)
    if isinstance(event, VersionPublished):
        state = replace(state, versions=(*state.versions, event.stored))
        moves = dict.fromkeys(event.aliases, event.stored.version.version)
    else:
        moves = {event.alias: event.version}
    moved = {
        name: StoredAlias(version, state.aliases[name].version if name in state.aliases else 0, time)
        for name, version in moves.items()
    }
    return replace(state, aliases={**state.aliases, **moved})


def already_published(state: AdapterState | None, header: PublishHeader) -> Published | None:
    """The version that answers this publication without a new one; None: there is none.

    A repeated request gets its first answer. Aliases are not moved: a late repetition must not undo a rollback.

    Raises:
        RequestIdReused: the request id published another file.
    """
    if state is None:
        return None
    for stored in state.versions:
        if header.request_id and stored.request_id == header.request_id:
            if stored.version.digest != header.digest:
                raise RequestIdReused(header.request_id, stored.version.version, stored.version.digest)
            return Published(stored.version, already_existed=False, aliases=state.aliases_of(stored.version.version))
    if held := state.with_digest(header.digest):
        return Published(held.version, already_existed=True, aliases=state.aliases_of(held.version.version))
    return None


def publication(state: AdapterState | None, stored: StoredVersion, aliases: tuple[str, ...]) -> VersionPublished:
    """The event that gives a file its number; the first version becomes "production" unless told otherwise."""
    number = len(state.versions) + 1 if state else 1
    stored = replace(stored, version=replace(stored.version, version=number))
    return VersionPublished(stored, aliases or ((PRODUCTION,) if number == 1 else ()))


def pick(state: AdapterState, ref: AdapterRef) -> StoredVersion:
    """The version that a reference means.

    Raises:
        NotFound: AliasNotFound, VersionNotFound or DigestNotFound.
    """
    if isinstance(ref.pick, int):
        if ref.pick > len(state.versions):
            raise VersionNotFound(ref.brand, ref.adapter, ref.pick, newest=len(state.versions))
        return state.versions[ref.pick - 1]
    if ref.is_digest:
        if found := state.with_digest(ref.pick):
            return found
        raise DigestNotFound(f"{ref.brand}/{ref.adapter}", ref.pick)
    if ref.pick not in state.aliases:
        raise AliasNotFound(ref.brand, ref.adapter, ref.pick, known=state.aliases)
    return state.versions[state.aliases[ref.pick].version - 1]


def alias_move(
    state: AdapterState, alias: str, target: AdapterRef, *, expected: int | None = None, reason: str = ""
) -> AliasSet | None:
    """The event that makes an alias name a target; None: it does already.

    Raises:
        NotFound: there is no such target.
        AliasMoved: the alias does not name the expected version; 0 expects that there is no alias.
    """
    version = pick(state, target).version.version
    now = state.aliases[alias].version if alias in state.aliases else 0
    if expected is not None and expected != now:
        raise AliasMoved(alias, expected=expected, found=now)
    return None if version == now else AliasSet(alias, version, now, reason)


def alias_rollback(state: AdapterState, brand: str, adapter: str, alias: str, *, reason: str = "") -> AliasSet:
    """The event that makes an alias name what it named before its last move.

    Raises:
        AliasNotFound: there is no such alias.
        NothingToRollBack: it has never moved.
    """
    if alias not in state.aliases:
        raise AliasNotFound(brand, adapter, alias, known=state.aliases)
    stored = state.aliases[alias]
    if not stored.previous_version:
        raise NothingToRollBack(alias)
    return AliasSet(alias, stored.previous_version, stored.version, reason)
