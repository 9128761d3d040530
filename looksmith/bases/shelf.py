"""Which bases the store holds, and how one leaves it. Leaves the bytes of files to push and pull."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from looksmith.bases.errors import BaseNotFound, ConfirmationMissing
from looksmith.bases.manifest import Manifest, from_json
from looksmith.bases.reference import Reference
from looksmith.bases.store import MANIFESTS, BaseStore, blob_key, manifest_key


@dataclass(frozen=True)
class StoredBase:
    """``pushed``: by the store's clock; ``family``: empty where the base does not say; ``manifest``: None: damaged."""

    reference: Reference
    pushed: datetime
    family: str
    manifest: Manifest | None


@dataclass(frozen=True)
class Deleted:
    """What left the store with a base, and the bytes that other bases still hold."""

    freed_bytes: int
    kept_bytes: int


def stored_bases(store: BaseStore) -> list[StoredBase]:
    """All bases, by name; those of one name as they came."""
    return sorted(_each(store), key=lambda base: (base.reference.name, base.pushed))


def delete(store: BaseStore, reference: Reference, *, confirm: str) -> Deleted:
    """Takes a base out of the store: its manifest first, then the files that no other base holds.

    Files stay where another manifest can't be read, which might name them.

    Args:
        store: where it is.
        reference: which base.
        confirm: its name once more.

    Raises:
        ConfirmationMissing: ``confirm`` is something else; nothing was deleted.
        BaseNotFound: it is not there.
        StoreUnavailable, StoreDenied, BucketNotFound, StoreRefused: the store did not do it; files may stay behind.
    """
    if confirm != reference.name:
        raise ConfirmationMissing(reference.name)
    bases = {base.reference: base for base in _each(store)}
    leaving = bases.pop(reference, None)
    if leaving is None:
        raise BaseNotFound(reference)
    store.delete(manifest_key(reference))
    others = [base.manifest for base in _each(store)]  # once more: one may have come meanwhile
    sizes = {file.sha256: file.size for file in leaving.manifest.files} if leaving.manifest else {}
    if None in others:
        return Deleted(0, sum(sizes.values()))
    held = {file.sha256 for manifest in others if manifest for file in manifest.files}
    unheld = sizes.keys() - held
    for sha256 in unheld:
        store.delete(blob_key(sha256))
    return Deleted(sum(sizes[each] for each in unheld), sum(sizes[each] for each in sizes.keys() & held))


def _each(store: BaseStore) -> Iterator[StoredBase]:
    for found in store.listing(MANIFESTS):
        name, _, file = found.key.removeprefix(MANIFESTS).partition("/")
        reference = Reference(name, file.removesuffix(".json"))
        data = store.get(found.key)
        if data is None:  # deleted meanwhile
            continue
        try:
            manifest, about = from_json(data)
        except ValueError:
            manifest, about = None, {}
        if manifest and manifest.digest != reference.digest:
            manifest = None
        yield StoredBase(reference, found.modified, about.get("family", "") if manifest else "", manifest)
