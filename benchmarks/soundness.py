"""What a registry shows of a brand and what its store holds of it, read to the last byte, and what of that is wrong.

Knows what holds at any time; what a brand should consist of, its caller knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeVar

from pydantic import ValidationError

from looksmith.errors import FailedPrecondition, LooksmithError, NotFound
from looksmith.nouns import Adapter, AdapterRef, AdapterVersion, VersionState
from services.registry import layout
from services.registry.adapter_state import StoredVersion
from services.registry.client import FakeRegistryClient, RegistryClient
from services.registry.commit_log import Record, Schema
from services.registry.messages import EventKind
from services.registry.object_store import ObjectStore, listing_of
from services.registry.records import ADAPTER, BRAND

Registry = RegistryClient | FakeRegistryClient

E = TypeVar("E")
S = TypeVar("S")

_EVERYTHING = 1000  # on one page


@dataclass(frozen=True)
class Look:
    """What a registry shows of a brand.

    Attributes:
        pieces: by name, what a call changes as a whole or not at all: the brand's record, and each adapter with its
            versions, aliases and history. Without brands' names, times and the record's version, which differ between
            runs of the same calls.
        faults: what is wrong whatever was done.
    """

    pieces: Mapping[str, object]
    faults: tuple[str, ...]


async def look(registry: Registry, brand: str) -> Look:
    """Reads, resolves and downloads everything of a brand."""
    pieces: dict[str, object] = {}
    faults: list[str] = []
    with suppress(NotFound):
        pieces["the record"] = replace(await registry.get_brand(brand), name="x", version=0, update_time=None)
    for adapter in (await registry.list_adapters(brand, page_size=_EVERYTHING)).items:
        versions = (await registry.list_versions(brand, adapter.name, page_size=_EVERYTHING)).items
        events = (await registry.history(brand, adapter.name, page_size=_EVERYTHING)).items
        pieces[adapter.name] = (
            [(version.version, version.digest, version.state) for version in versions],
            {alias.name: alias.version for alias in adapter.aliases},
            [(event.seq, event.kind, event.version, event.alias) for event in events],
        )
        since_erasure = takewhile(lambda event: event.kind is not EventKind.ERASED, events)
        published = [event.version for event in since_erasure if event.kind is EventKind.PUBLISHED]
        newest = adapter.latest_version
        if not [version.version for version in versions] == published == [*range(newest, newest - len(published), -1)]:
            faults.append(f"{adapter.name} has the versions {[version.version for version in versions]}")
        if [event.seq for event in events] != [*range(adapter.seq, 0, -1)]:
            faults.append(f"the log of {adapter.name} shows the records {[event.seq for event in events]}")
        for version in versions:
            faults += [what async for what in _faults_of(registry, adapter, version)]
    return Look(pieces, tuple(faults))


async def _faults_of(registry: Registry, adapter: Adapter, version: AdapterVersion) -> AsyncIterator[str]:
    name = f"{adapter.name}@{version.version}"
    names = [alias.name for alias in adapter.aliases if alias.version == version.version]
    picks: list[int | str] = [version.version, version.digest, *names]
    for pick in picks:
        try:
            found = (await registry.resolve(AdapterRef(version.brand, version.adapter, pick))).version
            if found != version or found.state is VersionState.YANKED:
                yield f"{name} is resolved as {found}"
        except FailedPrecondition as error:
            if (version.state, error.reason) != (VersionState.YANKED, "ADAPTER_YANKED"):
                yield f"{name} is refused: {error.message}"
    try:
        sha256 = hashlib.sha256()
        async for piece in registry.download(version.brand, version.digest):
            sha256.update(piece)
        if sha256.hexdigest() != version.digest:
            yield f"{name} has other bytes than its digest says"
    except LooksmithError as error:
        yield f"{name} can't be downloaded: {error.message}"


async def unsound(store: ObjectStore, brand: str) -> list[str]:
    """What is wrong with a brand's logs, and with the files that they name, as the store itself holds them."""
    faults: list[str] = []
    await _newest(store, layout.brand_log(brand), BRAND, faults)
    for stored in await _versions(store, brand, faults):
        faults += [what async for what in _file_faults(store, stored)]
    return faults


async def unnamed(store: ObjectStore, brand: str) -> list[str]:
    """Keys of all that a brand owns, but its records and the files of its versions."""
    named = {key for stored in await _versions(store, brand, []) for key in stored.keys}
    found = [each.key async for each in listing_of(store, layout.everything_of(brand))]
    return [key for key in found if key not in named and not layout.is_record(brand, key)]


async def _versions(store: ObjectStore, brand: str, faults: list[str]) -> list[StoredVersion]:
    logs = [layout.adapter_log(brand, adapter) for adapter in await store.folders(layout.adapters(brand))]
    newest = [await _newest(store, log, ADAPTER, faults) for log in logs]
    return [stored for record in newest if record for stored in record.state.versions]


async def _newest(store: ObjectStore, log: str, schema: Schema[E, S], faults: list[str]) -> Record[E, S] | None:
    """The newest record of a log that can be read, once all of it was read."""
    newest: Record[E, S] | None = None
    digest = ""
    for place, key in enumerate(await store.keys(log), start=1):
        data = await store.get(key) or b""
        try:
            newest = schema.records.validate_json(data)
        except ValidationError as error:
            faults.append(f"{key} can't be read: {error}")
            continue
        if not place == layout.slot_seq(key) == newest.seq:
            faults.append(f"{key} is record {newest.seq}, at place {place} of its log")
        if newest.prev_digest != digest:
            faults.append(f"{key} does not follow from the record before")
        digest = newest.stands_for or hashlib.sha256(data).hexdigest()
    return newest


async def _file_faults(store: ObjectStore, stored: StoredVersion) -> AsyncIterator[str]:
    sha256 = hashlib.sha256()
    for key in stored.keys:
        if await store.size(key) is None:
            yield f"{key} of version {stored.version.version} is missing"
            return
        async for piece in store.stream(key):
            sha256.update(piece)
    if stored.keys and sha256.hexdigest() != stored.version.digest:
        yield f"the file of {stored.version.adapter}@{stored.version.version} has other bytes than its digest says"
