"""Copies a base to a node's disk: every byte checked, whole or not there at all. Knows nothing about what it is for.

FOLDER/NAME-SHA12/                 a whole copy, with its manifest in a hidden file
FOLDER/.NAME-SHA12.partial/        what has come so far; a pull that was killed goes on from it, also within a file
FOLDER/.NAME-SHA12.lock            held by the one that pulls it; the system releases it when that process ends
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from looksmith.bases.errors import BaseCorrupt, BaseNotFound, DiskFull, FolderTaken, StoreUnavailable
from looksmith.bases.manifest import BaseFile, Kind, Manifest, from_json
from looksmith.bases.reference import Reference
from looksmith.bases.several import Tally, several, sha256_of
from looksmith.bases.store import BaseStore, blob_key, manifest_key

MARK = ".looksmith-base.json"
#: Files that come at a time.
AT_ONCE = 4
#: Times that a file goes on in its middle without a byte in between, and seconds before each.
_PAUSES = (0.2, 1.0, 3.0)


def local_copy(folder: Path, reference: Reference) -> Path | None:
    """The whole copy of a base in ``folder``, as ``pull`` returns it; None: there is none, or files are not there.

    Looks at sizes, not at bytes, and asks no store.
    """
    manifest = _manifest_of(folder / reference.folder, reference)
    if manifest is None or not _has_sizes(folder / reference.folder, manifest):
        return None
    return _path_of(folder / reference.folder, manifest)


def pull(
    store: BaseStore,
    reference: Reference,
    folder: Path,
    *,
    verify: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_wait: Callable[[], None] = lambda: None,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The path of a whole copy: a diffusers folder, or the file of a base that is one file.

    A copy that is there is returned at once, without a word to the store. One that lacks files is mended.

    Args:
        store: where from.
        reference: which base.
        folder: holds the copies of bases; made if it is missing.
        verify: whether to read a copy that is there, and mend it if its bytes are not what they should be.
        on_progress: told bytes done and bytes in all, from several threads, never from two at a time.
        on_wait: told that another pull of the same base is under way, whose end is waited for.
        free_bytes: how much fits on the disk of a folder.
        sleep: waits so many seconds before the store is asked again.

    Raises:
        BaseNotFound: the store has no such base.
        BaseCorrupt: the store holds other bytes; the file is named, and no copy is left.
        DiskFull: before anything was fetched, if it would not fit.
        FolderTaken: something else lies where the copy would.
        StoreUnavailable, StoreDenied, BucketNotFound, StoreRefused: pull again, and it goes on.
    """
    if not verify and (path := local_copy(folder, reference)):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / reference.folder, folder / f".{reference.folder}.partial"
    with _locked(folder / f".{reference.folder}.lock", on_wait):
        there = _manifest_of(final, reference)
        if there and _has_sizes(final, there) and (not verify or _has_digests(final, there, on_progress)):
            return _path_of(final, there)
        if final.exists() and there is None:
            raise FolderTaken(final)
        # 1. What is good of a damaged copy is used again.
        data = store.get(manifest_key(reference))
        manifest = _read_manifest(data, reference)
        if there:
            shutil.rmtree(partial, ignore_errors=True)
            final.rename(partial)
        # 2. Fetch.
        partial.mkdir(exist_ok=True)
        _check_room(partial, manifest, free_bytes)
        fetch = _Fetch(store, reference, partial, Tally(manifest.size, on_progress), sleep)
        with _telling_of_a_full_disk(partial, manifest, free_bytes):
            several(fetch.file, sorted(manifest.files, key=lambda file: -file.size), at_once=AT_ONCE, tally=fetch.tally)
            # 3. Show it, once it would outlast a power cut.
            (partial / MARK).write_bytes(data or b"")
            for path in (partial / MARK, partial, *(each for each in partial.rglob("*") if each.is_dir())):
                _to_disk(path)
        partial.rename(final)
        _to_disk(folder)
    return _path_of(final, manifest)


def _path_of(copy: Path, manifest: Manifest) -> Path:
    return copy / manifest.files[0].path if manifest.kind is Kind.FILE else copy


def _read_manifest(data: bytes | None, reference: Reference) -> Manifest:
    if data is None:
        raise BaseNotFound(reference)
    try:
        manifest, _ = from_json(data)
    except ValueError as error:
        raise BaseCorrupt(reference, f"its manifest can't be read: {error}") from None
    if manifest.digest != reference.digest:
        raise BaseCorrupt(reference, f"its manifest has the digest {manifest.digest}")
    return manifest


def _manifest_of(copy: Path, reference: Reference) -> Manifest | None:
    try:
        return _read_manifest((copy / MARK).read_bytes(), reference)
    except (OSError, BaseCorrupt):
        return None


def _has_sizes(copy: Path, manifest: Manifest) -> bool:
    return all(_size(copy / file.path) == file.size for file in manifest.files)


def _has_digests(copy: Path, manifest: Manifest, on_progress: Callable[[int, int], None]) -> bool:
    tally = Tally(manifest.size, on_progress)
    bad: list[BaseFile] = []

    def read(file: BaseFile) -> None:
        if sha256_of(copy / file.path, tally).hexdigest() != file.sha256:
            bad.append(file)

    several(read, manifest.files, at_once=AT_ONCE, tally=tally)
    return not bad


def _size(path: Path) -> int:
    """Bytes of a file; -1: there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing_bytes(partial: Path, manifest: Manifest) -> int:
    return manifest.size - sum(min(max(0, _size(partial / file.path)), file.size) for file in manifest.files)


def _check_room(partial: Path, manifest: Manifest, free_bytes: Callable[[Path], int]) -> None:
    if (needed := _missing_bytes(partial, manifest)) > (free := free_bytes(partial)):
        raise DiskFull(partial.parent, needed=needed, free=free)


@contextmanager
def _telling_of_a_full_disk(partial: Path, manifest: Manifest, free_bytes: Callable[[Path], int]) -> Iterator[None]:
    """Where others have filled it meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        needed = _missing_bytes(partial, manifest)
        raise DiskFull(partial.parent, needed=needed, free=free_bytes(partial)) from None


@contextmanager
def _locked(file: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """The file stays: to delete it would let two in, one with the old file and one with a new one."""
    with file.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _Fetch:
    """Brings files of one base into ``partial``."""

    store: BaseStore
    reference: Reference
    partial: Path
    tally: Tally
    sleep: Callable[[float], None]

    def file(self, file: BaseFile) -> None:
        """One file, from where an earlier try broke off; returns once it is right and on disk.

        Raises:
            BaseCorrupt: the store's bytes are wrong; none of them stay.
        """
        target = self.partial / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        have = _size(target)
        if 0 <= have <= file.size:
            sha256 = sha256_of(target, self.tally)
            if self._rest(file, target, sha256, have):
                return
            # Not the store's fault yet: a power cut can leave holes in what was written before it.
            self.tally.add(-file.size)
        target.write_bytes(b"")
        if not self._rest(file, target, hashlib.sha256(), 0):
            target.unlink()
            raise BaseCorrupt(
                self.reference, f"{file.path} (object {blob_key(file.sha256)}) has other bytes; push it with --rewrite"
            )

    def _rest(self, file: BaseFile, target: Path, sha256: hashlib._Hash, have: int) -> bool:
        """Appends what is missing behind ``have`` bytes; whether the file then has its digest."""
        if have < file.size:
            self._check_size(file)
        pauses = iter(_PAUSES)
        with target.open("ab") as stream:
            while have < file.size:
                before = have
                try:
                    for piece in self.store.read(blob_key(file.sha256), offset=have):
                        stream.write(piece)
                        sha256.update(piece)
                        have += len(piece)
                        self.tally.add(len(piece))
                    break
                except StoreUnavailable:
                    pauses = iter(_PAUSES) if have > before else pauses
                    if (pause := next(pauses, None)) is None:
                        raise
                    self.tally.add(0)  # it may be time to stop
                    self.sleep(pause)
            stream.flush()
            os.fsync(stream.fileno())
        return sha256.hexdigest() == file.sha256

    def _check_size(self, file: BaseFile) -> None:
        stored = self.store.size(blob_key(file.sha256))
        if stored != file.size:
            found = "is missing" if stored is None else f"has {stored} bytes instead of {file.size}"
            raise BaseCorrupt(self.reference, f"{file.path} (object {blob_key(file.sha256)}) {found}; push it again")
