from __future__ import annotations

import json
from typing import Any

import pytest

from looksmith.bases.manifest import BaseFile, Kind, Manifest, from_json, to_json

ONE = BaseFile("model_index.json", 10, "a" * 64)
TWO = BaseFile("unet/weights.safetensors", 20, "b" * 64)
FOLDER = Manifest(Kind.FOLDER, (ONE, TWO))


def test_a_manifest_reads_as_it_was_written_and_notes_change_no_digest() -> None:
    for about in ({}, {"family": "sdxl"}):
        manifest, read = from_json(to_json(FOLDER, about=about))
        assert (manifest, read) == (FOLDER, about)
        assert manifest.digest == FOLDER.digest
    assert FOLDER.size == 30


def test_the_digest_is_that_of_the_canonical_json() -> None:
    # Written out: references in recipes hold it, so that it must never change.
    assert (
        Manifest(Kind.FILE, (BaseFile("x.safetensors", 1, "0" * 64),)).digest
        == "81e0c7f79635d714ae576f5d146281e19284d5f5c01f97d7995667c557646748"
    )


@pytest.mark.parametrize(
    "other",
    [
        Manifest(Kind.FOLDER, (ONE,)),
        Manifest(Kind.FOLDER, (ONE, BaseFile("unet/weights.safetensors", 20, "c" * 64))),
        Manifest(Kind.FOLDER, (ONE, BaseFile("unet/weights.safetensors", 21, "b" * 64))),
        Manifest(Kind.FOLDER, (ONE, BaseFile("vae/weights.safetensors", 20, "b" * 64))),
    ],
)
def test_another_file_size_path_or_byte_is_another_digest(other: Manifest) -> None:
    assert other.digest != FOLDER.digest


def content(**changes: Any) -> bytes:  # noqa: ANN401  # JSON is what it is
    manifest = {
        "format": 1,
        "kind": "folder",
        "files": [{"path": "a/b", "size": 1, "sha256": "0" * 64}],
        **changes,
    }
    return json.dumps({"about": {}, "manifest": manifest}).encode()


def row(path: str, size: object = 1, sha256: str = "0" * 64) -> dict[str, object]:
    return {"path": path, "size": size, "sha256": sha256}


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"",
        b"[]",
        b"\xff",
        content(format=2),
        content(kind="zip"),
        content(files=[]),
        content(kind="file", files=[row("a"), row("b")]),
        content(files=[row("../a")]),
        content(files=[row("/a")]),
        content(files=[row("a//b")]),
        content(files=[row("a/")]),
        content(files=[row("a\\b")]),
        content(files=[row(".looksmith-base.json")]),
        content(files=[row("a/.b")]),
        content(files=[row("a" * 200)]),
        content(files=[row("a/" * 300 + "b")]),
        content(files=[row("")]),
        content(files=[row("b"), row("a")]),
        content(files=[row("a"), row("a")]),
        content(files=[row("A"), row("a")]),
        content(files=[row("a"), row("a/b")]),
        content(files=[row("a", size=-1)]),
        content(files=[row("a", size=True)]),
        content(files=[row("a", size="1")]),
        content(files=[row("a", sha256="0")]),
        content(files=["a"]),
    ],
)
def test_what_could_write_where_it_should_not_or_means_two_things_is_no_manifest(data: bytes) -> None:
    assert from_json(content())[0].files == (BaseFile("a/b", 1, "0" * 64),)
    with pytest.raises(ValueError):  # noqa: PT011  # of whatever kind: all who read one expect it
        from_json(data)
