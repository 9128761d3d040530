"""Which files make a base, and the digest that stands for all of them. Knows nothing about where they lie.

What the store holds of it is the manifest, which the digest covers, and notes beside it, which it does not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FORMAT = 1
MAX_FILES = 10_000
MAX_PATH_CHARACTERS = 512
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    FOLDER = "folder"
    """A diffusers folder."""
    FILE = "file"
    """One safetensors file."""


@dataclass(frozen=True)
class BaseFile:
    """``path``: relative to the base, with slashes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``files``: ascending by path, at least one; exactly one where ``kind`` is FILE."""

    kind: Kind
    files: Sequence[BaseFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def content(self) -> dict[str, Any]:
        files = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in self.files]
        return {"files": files, "format": FORMAT, "kind": self.kind.value}

    @property
    def digest(self) -> str:
        return hashlib.sha256(_canonical(self.content)).hexdigest()


def path_fault(path: str) -> str:
    """What is wrong with a file's path; empty: nothing."""
    if len(path) > MAX_PATH_CHARACTERS:
        return f"is longer than {MAX_PATH_CHARACTERS} characters"
    if not all(map(_PART.fullmatch, path.split("/"))):
        return (
            "is an odd name: letters, digits, '_', '.', '-' and '+' are kept, and the first is a letter, digit or '_'"
        )
    return ""


def clashes(paths: Sequence[str]) -> list[str]:
    """Paths that some disk can't tell apart, since it knows no capital letters."""
    counts = Counter(path.lower() for path in paths)
    return [path for path in paths if counts[path.lower()] > 1]


def to_json(manifest: Manifest, *, about: Mapping[str, str]) -> bytes:
    """As the store keeps it. ``about``: notes for people, which change no digest."""
    return _canonical({"about": dict(about), "manifest": manifest.content})


def from_json(data: bytes) -> tuple[Manifest, Mapping[str, str]]:
    """Manifest and notes.

    Raises:
        ValueError: what was read is none of ours, or could write outside of its folder.
    """
    try:
        read = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    match read:
        case {"about": dict(about), "manifest": {"format": 1, "kind": str(kind), "files": list(rows)}}:
            manifest = Manifest(Kind(kind), tuple(map(_file, rows)))
        case _:
            raise ValueError(f"it is no manifest of format {FORMAT}")
    paths = [file.path for file in manifest.files]
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    if not 1 <= len(paths) <= MAX_FILES or (manifest.kind is Kind.FILE and len(paths) > 1):
        raise ValueError(f"it names {len(paths)} files")
    if paths != sorted(paths) or clashes(paths) or folders & set(paths):
        raise ValueError("its files are not in order, or two have one name")
    return manifest, {str(key): str(value) for key, value in about.items()}


def _file(row: object) -> BaseFile:
    match row:
        case {"path": str(path), "sha256": str(sha256), "size": int(size)} if not isinstance(size, bool):
            if fault := path_fault(path):
                raise ValueError(f"{path!r} {fault}")
            if size >= 0 and _SHA256.fullmatch(sha256):
                return BaseFile(path, size, sha256)
    raise ValueError("it names a file without path, size or digest")


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
