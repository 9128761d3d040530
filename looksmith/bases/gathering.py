"""What of a folder or file belongs to a base, and every reason why it can't be one. Reads the disk; sends nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from looksmith.bases.errors import BaseRefused
from looksmith.bases.manifest import MAX_FILES, Kind, clashes, path_fault
from looksmith.bases.weights import NotWhole, read_head

_PICKLES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
_WEIGHTS = ".safetensors"
_INDEX = "model_index.json"


@dataclass(frozen=True)
class LocalFile:
    """``path``: within the base, with slashes; ``file``: where its bytes are read."""

    path: str
    file: Path
    size: int


@dataclass(frozen=True)
class Gathered:
    """``skipped``: hidden files and folders, which no base needs."""

    kind: Kind
    files: tuple[LocalFile, ...]
    skipped: tuple[str, ...] = ()


def gather(path: Path) -> Gathered:
    """All that would be pushed.

    Raises:
        BaseRefused: names every fault.
        OSError: something can't be read.
    """
    if path.is_dir():
        walk = _Walk(path)
        walk.into(path, "")
        found = Gathered(Kind.FOLDER, tuple(sorted(walk.files, key=lambda file: file.path)), tuple(walk.skipped))
        faults = [*walk.faults, *_of_folder(found)]
    else:
        found = Gathered(Kind.FILE, (LocalFile(path.name, path, path.stat().st_size),))
        faults = [f"{path.name} {fault}" for fault in _of_file(found.files[0]) if fault]
        if path.suffix.lower() not in {_WEIGHTS, *_PICKLES}:
            faults.append(f"a base is a diffusers folder or one {_WEIGHTS} file")
    if faults:
        raise BaseRefused(path, faults)
    return found


@dataclass
class _Walk:
    root: Path
    files: list[LocalFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def into(self, folder: Path, prefix: str) -> None:
        before = len(self.files), len(self.faults)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                self.skipped.append(path)
            elif entry.is_symlink() and (fault := self._link_fault(Path(entry.path))):
                self.faults.append(f"{path} {fault}")
            elif entry.is_dir(follow_symlinks=False):
                self.into(Path(entry.path), f"{path}/")
            elif not entry.is_file():
                self.faults.append(f"{path} is no file")
            else:
                file = LocalFile(path, Path(entry.path), entry.stat().st_size)
                self.files.append(file)
                self.faults += [f"{path} {fault}" for fault in _of_file(file) if fault]
        if prefix and (len(self.files), len(self.faults)) == before:
            self.faults.append(f"{prefix} is an empty folder")

    def _link_fault(self, link: Path) -> str:
        target = link.resolve()
        if not target.exists():
            return "is a link to nothing"
        if not target.is_relative_to(self.root.resolve()):
            return "is a link that leads out of the folder: copy it with `cp -rL`, which follows links"
        return "is a link to a folder" if target.is_dir() else ""


def _of_file(file: LocalFile) -> list[str]:
    suffix = Path(file.path).suffix.lower()
    if suffix in _PICKLES:
        return [f"is a pickle, which can run code: only {_WEIGHTS} weights are kept"]
    faults = [path_fault(file.path)]
    if suffix == _WEIGHTS:
        try:
            read_head(file.file)
        except NotWhole as fault:
            faults.append(str(fault))
    return faults


def _of_folder(found: Gathered) -> list[str]:
    paths = [file.path for file in found.files]
    if not paths:
        return ["it holds no files"]
    faults = [f"{path} differs from another name in capital letters only" for path in clashes(paths)]
    if _INDEX not in paths:
        faults.append(f"it is no diffusers folder: there is no {_INDEX}")
    if len(paths) > MAX_FILES:
        faults.append(f"it holds {len(paths)} files, and {MAX_FILES} are allowed")
    return faults
