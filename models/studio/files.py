"""Which files the studio model consists of, and their digests. Knows nothing about what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

STUDIO = Path(__file__).parent
MANIFEST = STUDIO / "manifest.json"
FOLDERS = ("base", "distill", "brands", "judge")


class ModelFileError(Exception):
    """A file of the model is not the one that was committed; the message names it."""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_files(root: Path = STUDIO) -> list[Path]:
    return sorted(f for folder in FOLDERS for f in (root / folder).rglob("*") if f.is_file())


def write_manifest(root: Path = STUDIO) -> None:
    digests = {f.relative_to(root).as_posix(): _sha256(f) for f in model_files(root)}
    (root / MANIFEST.name).write_text(json.dumps(digests, indent=1) + "\n")


def verify(root: Path = STUDIO) -> None:
    """Compares every file with the manifest.

    Raises:
        ModelFileError: a file is missing, differs, or is not in the manifest.
    """
    expected: dict[str, str] = json.loads((root / MANIFEST.name).read_text())
    for name, digest in expected.items():
        file = root / name
        if not file.is_file():
            raise ModelFileError(f"{name} is missing from {root}; restore it with: git checkout -- {root}")
        if (found := _sha256(file)) != digest:
            raise ModelFileError(
                f"{name} has sha256 {found}, {MANIFEST.name} says {digest}; restore it, or rebuild with: make studio"
            )
    strangers = {f.relative_to(root).as_posix() for f in model_files(root)} - expected.keys()
    if strangers:
        raise ModelFileError(f"{min(strangers)} is not in {MANIFEST.name}; remove it, or rebuild with: make studio")


if __name__ == "__main__":
    write_manifest()
