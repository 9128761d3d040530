"""Pushes a base: each file under its digest, the manifest last. What a base may be is gathering's to say."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from looksmith.bases.errors import FileChanged
from looksmith.bases.family import family_of
from looksmith.bases.gathering import LocalFile, gather
from looksmith.bases.manifest import BaseFile, Manifest, to_json
from looksmith.bases.reference import Reference
from looksmith.bases.several import Tally, several, sha256_of
from looksmith.bases.store import MANIFESTS, BaseStore, blob_key, manifest_key
from looksmith.nouns import check_name

#: Files that are read or sent at a time. Each that is sent holds a part of it in memory.
AT_ONCE = 4


@dataclass(frozen=True)
class Pushed:
    """``sent_bytes``: what the store did not have; ``skipped``: hidden files and folders, which stay behind."""

    reference: Reference
    files: int
    size: int
    sent_bytes: int
    skipped: tuple[str, ...]
    family: str


def push(
    store: BaseStore,
    path: Path,
    *,
    name: str,
    rewrite: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda _phase, _done, _total: None,
) -> Pushed:
    """Brings a base into the store; broken off and repeated, it sends only what is missing.

    Args:
        store: where to.
        path: a diffusers folder or a safetensors file.
        name: what people call it; the digest in the reference says what it is.
        rewrite: whether to send also what the store has, which mends a damaged file.
        on_progress: told "reading" or "sending", bytes done, and bytes in all.

    Raises:
        Malformed: the name.
        BaseRefused: the folder or file can't be a base.
        FileChanged: ... or was written to meanwhile.
        StoreUnavailable, StoreDenied, BucketNotFound, StoreRefused: the store did not take it.
    """
    check_name("name", name)
    # 1. See what would fail, before anything long begins.
    gathered = gather(path)
    family = family_of(path)
    known = {found.key for found in store.listing(f"{MANIFESTS}{name}/")}
    # 2. Name every file by its bytes.
    digests = _digests(gathered.files, on_progress)
    files = tuple(BaseFile(file.path, file.size, digests[file]) for file in gathered.files)
    manifest = Manifest(gathered.kind, files)
    reference = Reference(name, manifest.digest)
    # 3. Send what is not there; two files with the same bytes once.
    sources = {digests[file]: file for file in gathered.files}
    sent = _send(store, sources, on_progress, rewrite=rewrite)
    # 4. Make it visible; the first time stays the time at which it came.
    if rewrite or manifest_key(reference) not in known:
        content = to_json(manifest, about={"family": family})
        store.put(manifest_key(reference), io.BytesIO(content), len(content))
    # 5. Whoever deleted another base meanwhile may have seen no manifest that names these files.
    sent += _send(store, sources, on_progress)
    return Pushed(reference, len(files), manifest.size, sent, gathered.skipped, family)


def _digests(files: tuple[LocalFile, ...], on_progress: Callable[[str, int, int], None]) -> dict[LocalFile, str]:
    digests = {}
    tally = Tally(sum(file.size for file in files), lambda done, total: on_progress("reading", done, total))

    def read(file: LocalFile) -> None:
        digests[file] = sha256_of(file.file, tally).hexdigest()

    several(read, sorted(files, key=lambda file: -file.size), at_once=AT_ONCE, tally=tally)
    return digests


def _send(
    store: BaseStore,
    sources: dict[str, LocalFile],
    on_progress: Callable[[str, int, int], None],
    *,
    rewrite: bool = False,
) -> int:
    """Bytes that were sent: of files that the store lacks or holds with another size, or of all."""
    missing = {digest: file for digest, file in sources.items() if rewrite or store.size(blob_key(digest)) != file.size}
    total = sum(file.size for file in missing.values())
    if not missing:
        return 0
    tally = Tally(total, lambda done, total: on_progress("sending", done, total))

    def send(digest: str) -> None:
        file = missing[digest]
        with file.file.open("rb") as stream:
            store.put(blob_key(digest), _Checked(stream, file, digest, tally), file.size)

    several(send, sorted(missing, key=lambda digest: -missing[digest].size), at_once=AT_ONCE, tally=tally)
    return total


class _Checked:
    """A file's bytes on their way to the store; the last come only if all are what was read at first."""

    def __init__(self, stream: BinaryIO, file: LocalFile, digest: str, tally: Tally) -> None:
        self._stream, self._file, self._digest, self._tally = stream, file, digest, tally
        self._sha256, self._left = hashlib.sha256(), file.size

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        self._sha256.update(piece)
        self._left -= len(piece)
        if (self._left and len(piece) < size) or (not self._left and self._sha256.hexdigest() != self._digest):
            raise FileChanged(self._file.path)
        self._tally.add(len(piece))
        return piece
