"""Pulling: whole, right and visible, or not there; and again after whatever broke it off."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from looksmith.bases import (
    BaseCorrupt,
    BaseNotFound,
    DiskFull,
    FolderTaken,
    InMemoryBaseStore,
    Reference,
    StoreUnavailable,
    local_copy,
    pull,
    push,
)
from looksmith.bases.store import BLOBS, PIECE_BYTES, blob_key, manifest_key
from tests.unit.looksmith.bases.bases_on_disk import a_file, a_folder, files_in

UNET = bytes(range(256)) * (3 * PIECE_BYTES // 256)
UNET_PATH = "unet/diffusion_pytorch_model.safetensors"


class Frail(InMemoryBaseStore):
    """Breaks off reads after so many bytes of one each time, and remembers at which offsets they began."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[int] = []
        self.began: list[tuple[str, int]] = []
        self.calls = 0

    def get(self, key: str) -> bytes | None:
        self.calls += 1
        return super().get(key)

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        self.began.append((key, offset))
        size = len(self.objects[key])
        cut = self.cuts.pop(0) if self.cuts and size > PIECE_BYTES else size
        for piece in super().read(key, offset=offset):
            if cut <= 0:
                raise StoreUnavailable("the-store", "connection reset")
            yield piece[:cut]
            cut -= len(piece)

    def offsets_of_the_unet(self) -> list[int]:
        return [offset for key, offset in self.began if len(self.objects[key]) > PIECE_BYTES]


class Scene:
    def __init__(self, folder: Path) -> None:
        self.source = a_folder(folder / "source", unet=UNET)
        self.store = Frail()
        self.reference = push(self.store, self.source, name="sdxl").reference
        self.node = folder / "node"
        self.final = self.node / self.reference.folder
        self.partial = self.node / f".{self.reference.folder}.partial"
        self.slept: list[float] = []

    def pull(self, *, verify: bool = False) -> Path:
        return pull(self.store, self.reference, self.node, verify=verify, sleep=self.slept.append)

    def is_whole(self) -> bool:
        return files_in(self.final) == files_in(self.source)

    def unet_key(self) -> str:
        return next(key for key, data in self.store.objects.items() if len(data) > PIECE_BYTES)

    def spoil(self, key: str) -> bytes:
        good = self.store.objects[key]
        self.store.objects[key] = good[:-1] + bytes([good[-1] ^ 1])
        return good


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_folder_is_copied_whole_and_found_again_without_the_store(scene: Scene) -> None:
    assert local_copy(scene.node, scene.reference) is None
    assert scene.pull() == scene.final == scene.node / f"sdxl-{scene.reference.digest[:12]}"
    assert scene.is_whole()
    assert not scene.partial.exists()
    scene.store.calls = 0
    assert scene.pull() == local_copy(scene.node, scene.reference) == scene.final
    assert scene.store.calls == 0


def test_of_a_base_that_is_one_file_the_path_is_that_of_the_file(tmp_path: Path) -> None:
    file = a_file(tmp_path)
    store = InMemoryBaseStore()
    reference = push(store, file, name="xl").reference
    copy = pull(store, reference, tmp_path / "node")
    assert copy == local_copy(tmp_path / "node", reference) == tmp_path / "node" / reference.folder / "xl.safetensors"
    assert copy.read_bytes() == file.read_bytes()


def test_an_empty_file_is_copied_too(tmp_path: Path) -> None:
    store = InMemoryBaseStore()
    reference = push(store, a_folder(tmp_path / "source", more={"tokenizer/empty.txt": b""}), name="x").reference
    assert (pull(store, reference, tmp_path / "node") / "tokenizer/empty.txt").read_bytes() == b""


def test_a_cut_connection_goes_on_where_it_was_and_a_store_that_is_gone_is_not_asked_for_ever(scene: Scene) -> None:
    scene.store.cuts = [PIECE_BYTES, PIECE_BYTES]
    scene.pull()
    assert scene.is_whole()
    assert scene.store.offsets_of_the_unet() == [0, PIECE_BYTES, 2 * PIECE_BYTES]
    assert len(scene.slept) == 2


def test_a_pull_that_failed_shows_nothing_and_the_next_goes_on_within_the_file(scene: Scene) -> None:
    scene.store.cuts = [PIECE_BYTES, 0, 0, 0]
    with pytest.raises(StoreUnavailable):
        scene.pull()
    assert not scene.final.exists()
    assert local_copy(scene.node, scene.reference) is None
    assert (scene.partial / UNET_PATH).stat().st_size == PIECE_BYTES
    whole = {blob_key(sha256(data).hexdigest()) for data in files_in(scene.partial).values()}
    scene.store.cuts, scene.store.began = [], []
    scene.pull()
    assert scene.is_whole()
    assert scene.store.offsets_of_the_unet() == [PIECE_BYTES]
    assert not whole & {key for key, _ in scene.store.began}


@pytest.mark.parametrize(
    "left", [b"\0" * 100, UNET[:PIECE_BYTES], b"-" * (len(UNET) + 10_000)], ids=("zeros", "other bytes", "too much")
)
def test_what_a_power_cut_left_wrong_is_fetched_again(scene: Scene, left: bytes) -> None:
    (scene.partial / "unet").mkdir(parents=True)
    (scene.partial / UNET_PATH).write_bytes(left)
    scene.pull()
    assert scene.is_whole()


def test_a_wrong_byte_in_the_store_is_refused_by_name_and_nothing_of_it_stays(scene: Scene) -> None:
    good = scene.spoil(scene.unet_key())
    for _ in range(2):
        with pytest.raises(BaseCorrupt, match=f"{UNET_PATH}.*{scene.unet_key()}.*other bytes"):
            scene.pull()
        assert not scene.final.exists()
        assert not (scene.partial / UNET_PATH).exists()
    scene.store.objects[scene.unet_key()] = good
    scene.pull()
    assert scene.is_whole()


@pytest.mark.parametrize(
    ("stored", "said"), [(None, "is missing"), (b"short", "has 5 bytes instead of"), (b"-" * (4 << 20), "instead of")]
)
def test_a_missing_or_cut_object_is_told_by_its_file(scene: Scene, stored: bytes | None, said: str) -> None:
    key = scene.unet_key()
    del scene.store.objects[key]
    if stored is not None:
        scene.store.objects[key] = stored
    with pytest.raises(BaseCorrupt, match=f"{UNET_PATH}.*{said}"):
        scene.pull()
    assert not scene.final.exists()


def test_a_manifest_that_is_not_what_the_reference_stands_for_is_refused(scene: Scene) -> None:
    key = manifest_key(scene.reference)
    other = push(scene.store, a_folder(scene.node.parent / "other"), name="sdxl").reference
    for data, said in ((scene.store.objects[manifest_key(other)], "has the digest"), (b"{", "can't be read")):
        scene.store.objects[key] = data
        with pytest.raises(BaseCorrupt, match=said):
            scene.pull()
    unknown = Reference("sdxl", "0" * 64)
    with pytest.raises(BaseNotFound):
        pull(scene.store, unknown, scene.node)
    assert [path for path in scene.node.iterdir() if not path.name.startswith(".")] == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(scene: Scene) -> None:
    size = sum(map(len, files_in(scene.source).values()))
    with pytest.raises(DiskFull, match=f"{scene.node} has {size - 1} bytes free, and {size} more are needed"):
        pull(scene.store, scene.reference, scene.node, free_bytes=lambda _: size - 1)
    assert scene.store.began == []
    scene.store.cuts = [PIECE_BYTES, 0, 0, 0]
    with pytest.raises(StoreUnavailable):
        scene.pull()
    there = sum(map(len, files_in(scene.partial).values()))
    pull(scene.store, scene.reference, scene.node, free_bytes=lambda _: size - there)  # what has come needs no room
    assert scene.is_whole()


def test_a_disk_that_others_fill_meanwhile_is_told_as_such(scene: Scene) -> None:
    def read(key: str, *, offset: int = 0) -> Iterator[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    scene.store.read = read  # type: ignore[method-assign]  # stands for the write that follows it
    with pytest.raises(DiskFull, match=f"{scene.node} has [0-9]+ bytes free"):
        scene.pull()
    assert not scene.final.exists()


def test_a_copy_that_lost_a_file_is_no_copy_and_is_mended(scene: Scene) -> None:
    scene.pull()
    scene.store.began = []
    (scene.final / UNET_PATH).write_bytes(UNET[:-1])
    assert local_copy(scene.node, scene.reference) is None
    scene.pull()
    assert scene.is_whole()
    (scene.final / UNET_PATH).unlink()
    assert local_copy(scene.node, scene.reference) is None
    scene.pull()
    assert scene.is_whole()
    assert {key for key, _ in scene.store.began} == {scene.unet_key()}


def test_wrong_bytes_in_a_copy_are_found_and_mended_when_they_are_looked_for(scene: Scene) -> None:
    scene.pull()
    file = scene.final / UNET_PATH
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"!")
    scene.store.began = []
    assert scene.pull() == scene.final
    assert file.read_bytes() != good
    assert scene.pull(verify=True) == scene.final
    assert file.read_bytes() == good
    assert {key for key, _ in scene.store.began} == {scene.unet_key()}


@pytest.mark.parametrize("marked", [False, True])
def test_a_folder_that_is_something_else_is_left_alone(scene: Scene, *, marked: bool) -> None:
    scene.final.mkdir(parents=True)
    (scene.final / "thesis.txt").write_text("mine")
    if marked:
        (scene.final / ".looksmith-base.json").write_text("{}")
    assert local_copy(scene.node, scene.reference) is None
    with pytest.raises(FolderTaken):
        scene.pull()
    assert (scene.final / "thesis.txt").read_text() == "mine"


def test_a_second_pull_waits_for_the_first_and_fetches_nothing(scene: Scene) -> None:
    reached, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    read = scene.store.read

    def slow(key: str, *, offset: int = 0) -> Iterator[bytes]:
        reached.set()
        assert go_on.wait(10)
        yield from read(key, offset=offset)

    scene.store.read = slow  # type: ignore[method-assign]
    paths: list[Path] = []
    first = threading.Thread(target=lambda: paths.append(scene.pull()))
    second = threading.Thread(
        target=lambda: paths.append(pull(scene.store, scene.reference, scene.node, on_wait=waiting.set))
    )
    first.start()
    assert reached.wait(10)
    second.start()
    assert waiting.wait(10)
    assert not scene.final.exists()
    go_on.set()
    for thread in (first, second):
        thread.join(10)
    assert paths == [scene.final] * 2
    assert scene.is_whole()
    assert len(scene.store.began) == len([key for key in scene.store.objects if key.startswith(BLOBS)])


def test_progress_counts_every_byte_once_also_when_it_goes_on(scene: Scene) -> None:
    size = sum(map(len, files_in(scene.source).values()))
    scene.store.cuts = [PIECE_BYTES, 0, 0, 0]
    with pytest.raises(StoreUnavailable):
        scene.pull()
    told: list[tuple[int, int]] = []
    pull(scene.store, scene.reference, scene.node, on_progress=lambda *each: told.append(each))
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)


def test_a_copy_is_used_without_a_word_to_its_disk(scene: Scene) -> None:
    scene.pull()
    lock = scene.node / f".{scene.reference.folder}.lock"
    lock.unlink()
    assert scene.pull() == scene.final
    assert not lock.exists()  # a volume may be there to read only
