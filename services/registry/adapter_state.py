"""The rules of an adapter's versions and aliases, as pure functions: state + event -> state, and what may be asked.

Knows nothing about logs, stores or time beyond what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from looksmith.errors import InvalidField
from looksmith.nouns import PRODUCTION, AdapterManifest, AdapterRef, AdapterVersion, Alias, VersionState
from services.registry.errors import (
    AdapterYanked,
    AliasMoved,
    AliasNotFound,
    DigestNotFound,
    NothingToRollBack,
    PublishedForOtherFamily,
    RequestIdReused,
    VersionAliased,
    VersionNotFound,
)
from services.registry.messages import Published, PublishHeader


@dataclass(frozen=True)
class StoredVersion:
    """A version, where its file lies, the request that published it, and what became of it.

    Attributes:
        blob: key of the file, or what the keys of its parts begin with; empty: it was erased.
        parts: what follows "<blob>/" in the keys of its parts, in order; none: the file is one object.
        yank_seq: the record that yanked it; 0: it may be served.
        withdrawn: whether it was yanked by force.
    """

    version: AdapterVersion
    blob: str
    request_id: str = ""
    yank_seq: int = 0
    withdrawn: bool = False
    parts: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the objects that the file consists of, in order; none where it was erased."""
        return tuple(f"{self.blob}/{part}" for part in self.parts) or ((self.blob,) if self.blob else ())

    @property
    def is_yanked(self) -> bool:
        return self.version.state is VersionState.YANKED

    @property
    def is_erased(self) -> bool:
        return not self.blob


@dataclass(frozen=True)
class StoredAlias:
    """An alias and the version that it named before; 0: none."""

    version: int
    previous_version: int
    update_time: datetime


@dataclass(frozen=True)
class AdapterState:
    """All there is to know of an adapter at one point of its log.

    Attributes:
        create_time: of the first record.
        versions: number n at place n - 1, erased ones too: no number is used twice.
        aliases: by name.
        erased_by: number of the last brand record that erased what there was; 0: none.
    """

    create_time: datetime
    versions: tuple[StoredVersion, ...] = ()
    aliases: Mapping[str, StoredAlias] = field(default_factory=dict)
    erased_by: int = 0

    @property
    def kept(self) -> tuple[StoredVersion, ...]:
        """Versions that were not erased; an adapter without any is none."""
        return tuple(stored for stored in self.versions if not stored.is_erased)

    def erased_digests(self) -> tuple[str, ...]:
        """Of files that nobody may keep."""
        kept = {stored.version.digest for stored in self.kept}
        return tuple({stored.version.digest: None for stored in self.versions if stored.version.digest not in kept})

    def alias(self, name: str) -> Alias:
        return Alias(name, self.aliases[name].version, self.aliases[name].update_time)

    def all_aliases(self) -> tuple[Alias, ...]:
        return tuple(self.alias(name) for name in sorted(self.aliases))

    def aliases_of(self, version: int) -> tuple[str, ...]:
        return tuple(alias.name for alias in self.all_aliases() if alias.version == version)

    def withdrawn(self) -> tuple[int, ...]:
        return tuple(stored.version.version for stored in self.versions if stored.withdrawn)

    def with_digest(self, digest: str) -> StoredVersion | None:
        return next((stored for stored in self.kept if stored.version.digest == digest), None)

    def with_request(self, request_id: str) -> StoredVersion | None:
        return next((stored for stored in self.kept if stored.request_id == request_id), None)


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
    actor: str = ""
    kind: Literal["alias_set"] = "alias_set"


@dataclass(frozen=True)
class VersionYanked:
    """``replacement``: the version that its aliases name from now on; 0: they stay, and what they name is refused."""

    version: int
    replacement: int
    force: bool
    reason: str
    actor: str = ""
    kind: Literal["yanked"] = "yanked"


@dataclass(frozen=True)
class AllErased:
    """The brand was erased, by the record of this number in its own log."""

    by: int
    kind: Literal["erased"] = "erased"


Event = Annotated[VersionPublished | AliasSet | VersionYanked | AllErased, Field(discriminator="kind")]


def apply(state: AdapterState | None, event: Event, seq: int, time: datetime) -> AdapterState:
    """What an event makes of a state; None: the adapter had no record yet."""
    state = state or AdapterState(create_time=time)
    match event:
        case VersionPublished():
            state = replace(state, versions=(*state.versions, event.stored))
            moves = dict.fromkeys(event.aliases, event.stored.version.version)
        case AliasSet():
            moves = {event.alias: event.version}
        case VersionYanked():
            state = replace(state, versions=_with_yanked(state.versions, event, seq))
            moves = dict.fromkeys(state.aliases_of(event.version), event.replacement) if event.replacement else {}
        case AllErased():
            return replace(state, versions=tuple(map(erased, state.versions)), aliases={}, erased_by=event.by)
    moved = {
        name: StoredAlias(version, state.aliases[name].version if name in state.aliases else 0, time)
        for name, version in moves.items()
    }
    return replace(state, aliases={**state.aliases, **moved})


def erased(stored: StoredVersion) -> StoredVersion:
    """What may be kept of a version of an erased brand: number, digest and time."""
    version = stored.version
    return StoredVersion(
        AdapterVersion(
            brand=version.brand,
            adapter=version.adapter,
            version=version.version,
            digest=version.digest,
            size_bytes=version.size_bytes,
            manifest=_NOTHING_KNOWN,
            publish_time=version.publish_time,
            state=VersionState.YANKED,
        ),
        blob="",
        yank_seq=stored.yank_seq,
    )


_NOTHING_KNOWN = AdapterManifest("", "", "", 0, 0, (), (), convolutions=False)


def without_text(event: Event) -> Event:
    """What may be kept of an event of an erased brand."""
    match event:
        case VersionPublished():
            return VersionPublished(erased(event.stored), ())
        case AliasSet():
            return AliasSet("", event.version, event.previous_version)
        case VersionYanked():
            return replace(event, reason="", actor="")
        case AllErased():
            return event


def state_without_text(state: AdapterState) -> AdapterState:
    return replace(state, versions=tuple(map(erased, state.versions)), aliases={})


def _with_yanked(versions: tuple[StoredVersion, ...], event: VersionYanked, seq: int) -> tuple[StoredVersion, ...]:
    stored = versions[event.version - 1]
    yanked = replace(
        stored,
        version=replace(stored.version, state=VersionState.YANKED),
        yank_seq=seq,
        withdrawn=stored.withdrawn or event.force,
    )
    return (*versions[: event.version - 1], yanked, *versions[event.version :])


def already_published(state: AdapterState | None, header: PublishHeader) -> Published | None:
    """The version that answers this publication without a new one; None: there is none.

    A repeated request gets its first answer, the version as it stands: yanked, if it was since. Aliases are not moved:
    a late repetition must not undo a rollback.

    Raises:
        RequestIdReused: the request id published another file.
        AdapterYanked: the adapter holds this file as a version that another request published, and that was yanked.
        PublishedForOtherFamily: it holds this file for a base of another family.
    """
    if state is None:
        return None
    for stored in state.kept:
        if header.request_id and stored.request_id == header.request_id:
            if stored.version.digest != header.digest:
                raise RequestIdReused(header.request_id, stored.version.version, stored.version.digest)
            return Published(stored.version, already_existed=False, aliases=state.aliases_of(stored.version.version))
    if held := state.with_digest(header.digest):
        if held.is_yanked:
            raise AdapterYanked(held.version, field="digest")
        if held.version.manifest.family != header.family:
            raise PublishedForOtherFamily(held.version, header.family)
        return Published(held.version, already_existed=True, aliases=state.aliases_of(held.version.version))
    return None


def publication(
    state: AdapterState | None, stored: StoredVersion, aliases: tuple[str, ...], *, first_goes_live: bool = True
) -> VersionPublished:
    """The event that gives a file its number; the first version becomes "production" unless told otherwise."""
    number = len(state.versions) + 1 if state else 1
    is_first = not (state and state.kept)
    stored = replace(stored, version=replace(stored.version, version=number))
    return VersionPublished(stored, aliases or ((PRODUCTION,) if is_first and first_goes_live else ()))


def pick(state: AdapterState, ref: AdapterRef) -> StoredVersion:
    """The version that a reference means, yanked or not.

    Raises:
        NotFound: AliasNotFound, VersionNotFound or DigestNotFound.
    """
    if isinstance(ref.pick, int):
        if ref.pick > len(state.versions) or state.versions[ref.pick - 1].is_erased:
            raise VersionNotFound(ref.brand, ref.adapter, ref.pick, newest=len(state.versions))
        return state.versions[ref.pick - 1]
    if ref.is_digest:
        if found := state.with_digest(ref.pick):
            return found
        raise DigestNotFound(f"{ref.brand}/{ref.adapter}", ref.pick)
    if ref.pick not in state.aliases:
        raise AliasNotFound(ref.brand, ref.adapter, ref.pick, known=state.aliases)
    return state.versions[state.aliases[ref.pick].version - 1]


def pick_served(state: AdapterState, ref: AdapterRef) -> StoredVersion:
    """``pick`` for whoever will paint with it, or have others paint with it.

    Raises:
        NotFound: as ``pick``.
        AdapterYanked: the version was yanked, however the reference names it.
    """
    found = pick(state, ref)
    if found.is_yanked:
        raise AdapterYanked(found.version, named_by="" if isinstance(ref.pick, int) or ref.is_digest else ref.pick)
    return found


def alias_move(
    state: AdapterState, alias: str, target: AdapterRef, *, expected: int | None = None, reason: str = ""
) -> AliasSet | None:
    """The event that makes an alias name a target; None: it does already.

    Raises:
        NotFound: there is no such target.
        AdapterYanked: it was yanked.
        AliasMoved: the alias does not name the expected version; 0 expects that there is no alias.
    """
    version = pick_served(state, target).version.version
    now = state.aliases[alias].version if alias in state.aliases else 0
    if expected is not None and expected != now:
        raise AliasMoved(alias, expected=expected, found=now)
    return None if version == now else AliasSet(alias, version, now, reason)


def alias_rollback(
    state: AdapterState, brand: str, adapter: str, alias: str, *, expected: int | None = None, reason: str = ""
) -> AliasSet:
    """The event that makes an alias name what it named before its last move.

    Raises:
        AliasNotFound: there is no such alias.
        AliasMoved: it does not name the expected version.
        NothingToRollBack: it has never moved.
        AdapterYanked: what it named before was yanked.
    """
    if alias not in state.aliases:
        raise AliasNotFound(brand, adapter, alias, known=state.aliases)
    stored = state.aliases[alias]
    if expected is not None and expected != stored.version:
        raise AliasMoved(alias, expected=expected, found=stored.version)
    if not stored.previous_version:
        raise NothingToRollBack(alias)
    back = pick_served(state, AdapterRef(brand, adapter, stored.previous_version)).version.version
    return AliasSet(alias, back, stored.version, reason)


def yank(
    state: AdapterState, target: AdapterRef, *, replacement: int = 0, force: bool = False, reason: str
) -> VersionYanked | None:
    """The event that yanks a version; None: it is yanked already, and no alias is to move.

    Args:
        state: of the adapter.
        target: the version, by number.
        replacement: version that its aliases shall name instead; 0: none. A version that was yanked by force may be
            yanked again with one, which moves the aliases that were left behind.
        force: withdraws it though aliases name it and there is no replacement, and from what was accepted before. A
            version that was yanked without may be yanked again with it.
        reason: why, for the history.

    Raises:
        NotFound: there is no such version or replacement.
        InvalidField: the replacement is the version itself.
        AdapterYanked: the replacement was yanked.
        VersionAliased: aliases name the version, and there is neither a replacement nor force.
    """
    stored = pick(state, target)
    number, named_by = stored.version.version, state.aliases_of(stored.version.version)
    if replacement == number:
        raise InvalidField("replacement", "must be another version than the one that is yanked")
    if stored.is_yanked and not (replacement and named_by) and (stored.withdrawn or not force):
        return None
    if replacement > len(state.versions) or (replacement and state.versions[replacement - 1].is_erased):
        newest = len(state.versions)
        raise VersionNotFound(target.brand, target.adapter, replacement, newest=newest, field="replacement")
    if replacement and state.versions[replacement - 1].is_yanked:
        raise AdapterYanked(state.versions[replacement - 1].version, field="replacement")
    if named_by and not replacement and not force:
        raise VersionAliased(stored.version, named_by)
    return VersionYanked(number, replacement, force, reason)
