"""Looks at all that lies in the store and tells what should not be so. Changes nothing, and repairs nothing.

Reads records as they are stored, past every memory; what a good record is, is the schemas' to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from services.registry import layout, records
from services.registry.adapter_state import AdapterState, StoredVersion
from services.registry.commit_log import Record, Schema
from services.registry.errors import BrandNotFound
from services.registry.object_store import ObjectStore, StoredObject, listing_of


class FaultKind(StrEnum):
    FILE_MISSING = "file_missing"
    FILE_SIZE = "file_size"
    FILE_DIGEST = "file_digest"
    RECORD_CORRUPT = "record_corrupt"
    RECORD_MISSING = "record_missing"
    OBJECT_UNKNOWN = "object_unknown"
    NOT_ERASED = "not_erased"


@dataclass(frozen=True)
class Fault:
    """Something that should not be. ``what`` is for people."""

    kind: FaultKind
    key: str
    what: str


@dataclass(frozen=True)
class CheckedBrand:
    """All of a brand has been looked at."""

    name: str


@dataclass(frozen=True)
class Summary:
    """What there is. Versions' files are counted once however many versions share them."""

    brands: int = 0
    adapters: int = 0
    versions: int = 0
    file_objects: int = 0
    file_bytes: int = 0
    unreferenced_objects: int = 0
    unreferenced_bytes: int = 0
    records: int = 0
    faults: int = 0

    def __add__(self, other: Summary) -> Summary:
        return Summary(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Checker:
    def __init__(self, *, store: ObjectStore) -> None:
        self._store = store

    async def check(
        self, brand: str = "", *, read_files: bool = False
    ) -> AsyncIterator[Fault | CheckedBrand | Summary]:
        """Faults as they are found, each brand once it is done, and in the end what there is.

        Args:
            brand: the only one to look at; empty: everything.
            read_files: whether to read every file and compare its digest.

        Raises:
            BrandNotFound: the store holds nothing of the brand.
            StoreUnavailable: nothing is said of what was not reached.
        """
        brands = await self._store.folders(layout.BRANDS)
        if brand and brand not in brands:
            raise BrandNotFound(brand)
        total = Summary()
        for name in [brand] if brand else brands:
            found = await _Brand(name, self._store).look(read_files=read_files)
            for fault in found.faults:
                yield fault
            total += replace(found.summary, faults=len(found.faults))
            yield CheckedBrand(name)
        if not brand:
            async for strange in self._strange():
                yield strange
                total += Summary(faults=1)
        yield total

    async def _strange(self) -> AsyncIterator[Fault]:
        """What lies beside everything that the registry knows."""
        for folder in await self._store.folders(layout.ROOT):
            if f"{layout.ROOT}{folder}/" not in layout.FOLDERS:
                yield Fault(FaultKind.OBJECT_UNKNOWN, f"{layout.ROOT}{folder}/", "no registry writes here")


@dataclass(frozen=True)
class _Found:
    faults: Sequence[Fault]
    summary: Summary


class _Brand:
    """One look at one brand."""

    def __init__(self, name: str, store: ObjectStore) -> None:
        self._name, self._store = name, store
        self._faults: list[Fault] = []

    async def look(self, *, read_files: bool) -> _Found:
        # Records first: a file that they name was there before them.
        brand, count = await self._newest(layout.brand_log(self._name), records.BRAND)
        states: list[AdapterState] = []
        for adapter in await self._store.folders(layout.adapters(self._name)):
            prefix = layout.adapter_log(self._name, adapter)
            record, read = await self._newest(prefix, records.ADAPTER)
            count += read
            if record:
                states.append(record.state)
        listed = {found.key: found async for found in listing_of(self._store, layout.everything_of(self._name))}
        files = {key: found for key, found in listed.items() if not layout.is_record(self._name, key)}
        stored = [version for state in states for version in state.kept]
        for version in stored:
            await self._check_file(version, files, read_files=read_files)
        named = {key for version in stored for key in version.keys}
        unnamed = [found for key, found in files.items() if key not in named]
        if brand is not None and brand.state is None:
            self._check_erasure(brand, states, list(files.values()))
        summary = Summary(
            brands=int(brand is not None and brand.state is not None),
            adapters=sum(bool(state.kept) for state in states),
            versions=len(stored),
            file_objects=sum(key in files for key in named),
            file_bytes=sum(files[key].size for key in named if key in files),
            unreferenced_objects=len(unnamed),
            unreferenced_bytes=sum(found.size for found in unnamed),
            records=count,
        )
        return _Found(self._faults, summary)

    def _fault(self, kind: FaultKind, key: str, what: str) -> None:
        self._faults.append(Fault(kind, key, what))

    async def _newest(self, prefix: str, schema: Schema[Any, Any]) -> tuple[Record[Any, Any] | None, int]:
        """A log's newest record, and how many there are; what is wrong between is told."""
        keys = [found.key async for found in listing_of(self._store, prefix)]
        record, digest, seq = None, "", 0
        for key in keys:
            if layout.slot_number(key) is None:
                self._fault(FaultKind.OBJECT_UNKNOWN, key, "no registry writes this beside records")
                continue
            seq += 1
            if layout.slot_number(key) != seq:
                self._fault(FaultKind.RECORD_MISSING, layout.slot(prefix, seq), f"the next one there is {key}")
                seq, digest = layout.slot_number(key) or 0, ""
            record, digest = await self._read(key, schema, digest)
        return record, len(keys)

    async def _read(self, key: str, schema: Schema[Any, Any], before: str) -> tuple[Record[Any, Any] | None, str]:
        """A record and its digest; ``before`` is that of the record before, empty where it is not known."""
        data = await self._store.get(key) or b""
        try:
            record = schema.records.validate_json(data)
        except ValidationError as error:
            self._fault(FaultKind.RECORD_CORRUPT, key, f"{error.error_count()} fields are missing or bad")
            return None, ""
        if record.seq != layout.slot_number(key):
            self._fault(FaultKind.RECORD_CORRUPT, key, f"it says that it is number {record.seq}")
        if before and record.prev_digest != before:
            self._fault(FaultKind.RECORD_CORRUPT, key, "it does not follow the one before")
        return record, record.stands_for or hashlib.sha256(data).hexdigest()

    async def _check_file(self, stored: StoredVersion, files: dict[str, StoredObject], *, read_files: bool) -> None:
        version = stored.version
        name = f"{version.brand}/{version.adapter}@{version.version}"
        missing = [key for key in stored.keys if key not in files]
        for key in missing:
            self._fault(FaultKind.FILE_MISSING, key, f"it belongs to {name}")
        if missing:
            return
        size = sum(files[key].size for key in stored.keys)
        if size != version.size_bytes:
            self._fault(FaultKind.FILE_SIZE, stored.blob, f"{name} has {version.size_bytes} bytes, here are {size}")
        elif read_files:
            sha256 = hashlib.sha256()
            for key in stored.keys:
                async for piece in self._store.stream(key):
                    sha256.update(piece)
            if sha256.hexdigest() != version.digest:
                self._fault(
                    FaultKind.FILE_DIGEST, stored.blob, f"{name} is {version.digest}, here is {sha256.hexdigest()}"
                )

    def _check_erasure(
        self, brand: records.BrandRecord, states: Sequence[AdapterState], files: Sequence[StoredObject]
    ) -> None:
        for found in files:
            self._fault(FaultKind.NOT_ERASED, found.key, f"{found.size} bytes of a brand that was erased")
        if not brand.stands_for:
            key = layout.slot(layout.brand_log(self._name), brand.seq)
            self._fault(FaultKind.NOT_ERASED, key, "the erasure of its brand has not ended")
        for state in states:
            for stored in state.kept:
                self._fault(FaultKind.NOT_ERASED, stored.blob, f"version {stored.version.version} was not erased")
