from __future__ import annotations

from pathlib import Path

import pytest

from looksmith.bases import BaseNotFound, InMemoryBaseStore, Reference, delete, pull, push, stored_bases
from looksmith.bases.errors import ConfirmationMissing
from looksmith.bases.store import BLOBS, manifest_key
from tests.unit.looksmith.bases.bases_on_disk import a_file, a_folder, files_in


def test_lists_every_base_with_its_family_and_tells_a_damaged_one(tmp_path: Path) -> None:
    store = InMemoryBaseStore()
    assert stored_bases(store) == []
    folder = push(store, a_folder(tmp_path / "a"), name="b-folder")
    file = push(store, a_file(tmp_path), name="a-file")
    listed = stored_bases(store)
    assert [(each.reference, each.family) for each in listed] == [(file.reference, "sdxl"), (folder.reference, "sdxl")]
    assert [each.manifest.size for each in listed if each.manifest] == [file.size, folder.size]
    good = store.objects[manifest_key(file.reference)]
    for bad in (b"{", store.objects[manifest_key(folder.reference)]):
        store.objects[manifest_key(file.reference)] = bad
        assert [each.manifest is None for each in stored_bases(store)] == [True, False]
    store.objects[manifest_key(file.reference)] = good


def test_a_deleted_base_leaves_nothing_but_what_others_hold(tmp_path: Path) -> None:
    store = InMemoryBaseStore()
    first = push(store, a_folder(tmp_path / "a", unet=b"first"), name="first")
    second = push(store, a_folder(tmp_path / "b", unet=b"second"), name="second")
    gone = delete(store, first.reference, confirm="first")
    assert (gone.freed_bytes, gone.kept_bytes) == (
        second.sent_bytes - len(b"second") + len(b"first"),
        first.size - gone.freed_bytes,
    )
    assert files_in(pull(store, second.reference, tmp_path / "node")) == files_in(tmp_path / "b")
    delete(store, second.reference, confirm="second")
    assert store.objects == {}


def test_the_manifest_goes_first(tmp_path: Path) -> None:
    class Watched(InMemoryBaseStore):
        def delete(self, key: str) -> None:
            deleted.append(key)
            super().delete(key)

    deleted: list[str] = []
    store = Watched()
    reference = push(store, a_folder(tmp_path), name="x").reference
    delete(store, reference, confirm="x")
    assert deleted[0] == manifest_key(reference)
    assert len(deleted) == 5


@pytest.mark.parametrize("confirm", ["", "SDXL", "other"])
def test_nothing_is_deleted_without_its_name(tmp_path: Path, confirm: str) -> None:
    store = InMemoryBaseStore()
    reference = push(store, a_file(tmp_path), name="sdxl").reference
    before = dict(store.objects)
    with pytest.raises(ConfirmationMissing):
        delete(store, reference, confirm=confirm)
    with pytest.raises(BaseNotFound):
        delete(store, Reference("sdxl", "0" * 64), confirm="sdxl")
    assert store.objects == before


def test_files_stay_where_a_manifest_can_t_be_read_that_may_name_them(tmp_path: Path) -> None:
    store = InMemoryBaseStore()
    file = a_file(tmp_path)
    leaving, other = (push(store, file, name=name).reference for name in ("leaving", "other"))
    store.objects[manifest_key(other)] = b"{"
    assert delete(store, leaving, confirm="leaving").freed_bytes == 0
    assert len([key for key in store.objects if key.startswith(BLOBS)]) == 1
    assert manifest_key(leaving) not in store.objects
