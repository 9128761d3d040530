"""Pushing: what is sent, in which order, and what can be seen in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from looksmith.bases import BaseRefused, InMemoryBaseStore, Malformed, StoreUnavailable, delete, pull, push
from looksmith.bases.errors import FileChanged
from looksmith.bases.manifest import from_json
from looksmith.bases.store import BLOBS, MANIFESTS, Source, blob_key, manifest_key
from tests.unit.looksmith.bases.bases_on_disk import a_file, a_folder


class Watched(InMemoryBaseStore):
    """Remembers the keys that were written; lets only so many of them be."""

    def __init__(self, *, puts: int = 1000) -> None:
        super().__init__()
        self.put_keys: list[str] = []
        self.puts_left = puts

    def put(self, key: str, stream: Source, size: int) -> None:
        if not self.puts_left:
            raise StoreUnavailable("the-store", "switched off")
        self.puts_left -= 1
        super().put(key, stream, size)
        self.put_keys.append(key)


def test_every_file_is_kept_under_its_digest_and_the_manifest_comes_last(tmp_path: Path) -> None:
    store = Watched()
    base = a_folder(tmp_path, more={"vae/also.txt": b"unet/config", "LICENSE": b"unet/config", ".git/x": b"-"})
    pushed = push(store, base, name="sdxl")
    assert store.put_keys[-1] == manifest_key(pushed.reference)
    assert len(store.put_keys) == 6  # of six files two are the same, and the manifest
    manifest, about = from_json(store.objects[manifest_key(pushed.reference)])
    assert manifest.digest == pushed.reference.digest
    assert {file.path: store.objects[blob_key(file.sha256)] for file in manifest.files} == {
        file.path: (base / file.path).read_bytes() for file in manifest.files
    }
    assert about == {"family": "sdxl"}
    assert (pushed.files, pushed.size, pushed.skipped, pushed.family) == (6, manifest.size, (".git",), "sdxl")
    assert pushed.sent_bytes == manifest.size - len("unet/config")
    assert all(key.startswith("bases/") for key in store.objects)


def test_the_same_again_sends_nothing_and_has_the_same_reference_under_any_path_and_time(tmp_path: Path) -> None:
    store = Watched()
    first = push(store, a_folder(tmp_path / "one"), name="sdxl")
    written = list(store.put_keys)
    again = push(store, a_folder(tmp_path / "two"), name="sdxl")
    assert (again.reference, again.sent_bytes, store.put_keys) == (first.reference, 0, written)
    other = push(store, a_folder(tmp_path / "two"), name="other")
    assert (other.reference.digest, other.reference.name, other.sent_bytes) == (first.reference.digest, "other", 0)
    changed = push(store, a_folder(tmp_path / "two", unet=b"tuned"), name="sdxl")
    assert changed.reference.digest != first.reference.digest
    assert len([key for key in store.put_keys if key.startswith(BLOBS)]) == 5  # one more than the four of the first


def test_a_push_that_breaks_off_shows_nothing_and_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    base = a_folder(tmp_path)
    for puts in range(5):
        store = Watched(puts=puts)
        with pytest.raises(StoreUnavailable):
            push(store, base, name="sdxl")
        assert store.listing(MANIFESTS) == []
        assert len(store.put_keys) == puts
        store.puts_left = 1000
        push(store, base, name="sdxl")
        assert len(store.put_keys) == len(set(store.put_keys)) == 5


def test_half_an_object_is_sent_again_and_rewrite_sends_everything(tmp_path: Path) -> None:
    store = Watched()
    base = a_folder(tmp_path)
    pushed = push(store, base, name="sdxl")
    key = store.put_keys[0]
    good = store.objects[key]
    store.objects[key] = good[:-1]
    assert push(store, base, name="sdxl").sent_bytes == len(good)
    store.objects[key] = bytes(len(good))
    assert push(store, base, name="sdxl").sent_bytes == 0
    assert push(store, base, name="sdxl", rewrite=True).sent_bytes == pushed.size
    assert store.objects[key] == good


@pytest.mark.parametrize("spoiled", [b"{}", b'{"cross_attention_dim": 2049}'])
def test_a_file_that_changes_meanwhile_reaches_no_store(tmp_path: Path, spoiled: bytes) -> None:
    base = a_folder(tmp_path)
    store = Watched()

    def spoil(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("reading", total):
            (base / "unet/config.json").write_bytes(spoiled)

    with pytest.raises(FileChanged, match=r"unet/config\.json changed while it was being pushed"):
        push(store, base, name="sdxl", on_progress=spoil)
    assert store.listing(MANIFESTS) == []
    assert spoiled not in store.objects.values()


def test_files_that_a_deletion_took_meanwhile_are_sent_once_more(tmp_path: Path) -> None:
    shared = a_file(tmp_path)
    store = InMemoryBaseStore()
    leaving = push(store, shared, name="leaving").reference

    class Raced(InMemoryBaseStore):
        objects = store.objects

        def __init__(self) -> None:
            pass

        def put(self, key: str, stream: Source, size: int) -> None:
            if key.startswith(MANIFESTS):
                delete(store, leaving, confirm="leaving")
            super().put(key, stream, size)

    staying = push(Raced(), shared, name="staying").reference
    assert pull(store, staying, tmp_path / "node").read_bytes() == shared.read_bytes()


def test_progress_counts_every_byte_once_in_each_phase(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    pushed = push(InMemoryBaseStore(), a_folder(tmp_path), name="x", on_progress=lambda *each: told.append(each))
    for phase in ("reading", "sending"):
        done = [done for each, done, total in told if each == phase and total == pushed.size]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, pushed.size)


def test_nothing_is_sent_of_what_is_no_base_or_has_no_name(tmp_path: Path) -> None:
    store = Watched()
    with pytest.raises(BaseRefused):
        push(store, a_folder(tmp_path, more={"x.ckpt": b"-"}), name="sdxl")
    with pytest.raises(Malformed):
        push(store, a_folder(tmp_path), name="SDXL")
    assert store.put_keys == []
