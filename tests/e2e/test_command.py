"""The command against a running stack: what it prints, what it exits with."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.e2e.system import BRANDS, System


def test_lists_brands_adapters_and_workers(system: System) -> None:
    assert {b["name"] for b in system.json("brands")["brands"]} >= set(BRANDS)
    listed = system.json("adapters", "inkwell")["adapters"]
    assert [(a["name"], a["latest_version"], a["aliases"][0]["name"]) for a in listed] == [
        ("house-style", 1, "production")
    ]
    assert [w["registration"]["name"] for w in system.json("workers")["workers"]] == ["worker-0", "worker-1"]


def test_generates_files_and_tells_where_the_time_went(system: System, tmp_path: Path) -> None:
    done = system.run(
        "generate", "voltage", "a blue car on a mint background", "-n", "2", f"--out={tmp_path}", "--trace"
    )
    assert done.returncode == 0, done.stderr
    assert [size_of(file) for file in sorted(tmp_path.glob("*.png"))] == [(128, 128)] * 2
    for span in ("looksmith.generate", "place", "attempt", "worker.generate", "adapter.swap", "denoise", "send"):
        assert f"{span} " in done.stdout, f"{span} is missing:\n{done.stdout}"


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_explains_where_a_picture_would_go(system: System) -> None:
    told = system.json("explain", "harbour")
    assert {c["worker"] for c in told["candidates"]} == {"worker-0", "worker-1"}
    assert all(c["reason"] for c in told["candidates"])


def test_publishing_the_same_file_again_makes_no_new_version(system: System) -> None:
    again = system.json("publish", "harbour/house-style", "models/studio/brands/harbour/house-style.safetensors")
    assert again["already_existed"] is True
    assert again["version"]["version"] == 1


def test_a_yanked_version_is_painted_no_more_and_listed_as_such(system: System) -> None:
    published = system.run("publish", "harbour/spare", "models/studio/brands/harbour/house-style.safetensors")
    assert published.returncode == 0, published.stderr
    yanked = system.run("yank", "harbour/spare@1", "--reason=the old logo", "--force")
    assert (yanked.returncode, yanked.stdout) == (0, "harbour/spare@1 is withdrawn\n"), yanked.stderr
    for adapter in ("spare", "spare@1"):
        refused = system.run("generate", "harbour", "a mug", f"--adapter={adapter}")
        assert (refused.returncode, "[ADAPTER_YANKED]" in refused.stderr) == (4, True), refused.stderr
    listed = {a["name"]: a["yanked_versions"] for a in system.json("adapters", "harbour")["adapters"]}
    assert listed == {"house-style": [], "spare": [1]}
    assert "production=1 (yanked)" in system.run("adapters", "harbour").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("generate", "nobody", "a mug"), 3, "BRAND_NOT_FOUND"),
        (("generate", "inkwell", "a mug", "--adapter=house-style:staging"), 3, "ALIAS_NOT_FOUND"),
        (("generate", "inkwell", "a mug", "--adapter=house-style@99"), 3, "VERSION_NOT_FOUND"),
        (("generate", "inkwell", "a mug", "--adapter=winter"), 3, "ADAPTER_NOT_FOUND"),
        (("generate", "inkwell", "  "), 4, "PROMPT_EMPTY"),
        (("generate", "inkwell", "mug " * 60), 4, "PROMPT_TOO_LONG"),
        (("generate", "inkwell", "a mug", "--steps=3"), 4, "STEPS_UNSUPPORTED"),
        (("publish", "inkwell/logo", "README.md"), 4, "E_"),
        (("yank", "inkwell/house-style@1", "--reason=r"), 4, "VERSION_ALIASED"),
        (("yank", "inkwell/house-style@9", "--reason=r"), 3, "VERSION_NOT_FOUND"),
    ],
)
def test_a_mistake_is_one_line_with_its_reason(
    system: System, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = system.run(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert reason in done.stderr


def test_a_deleted_brand_leaves_nothing_in_the_store_or_at_the_workers(system: System) -> None:
    # Other bytes than every other brand's: what the workers drop is nobody else's.
    published = system.json("publish", "leaving/house-style", str(another_adapter(system.folder)))
    digest = published["version"]["digest"]
    painted = system.run("generate", "leaving", "a red mug", f"--out={system.folder / 'leaving'}")
    assert painted.returncode == 0, painted.stderr
    assert copies(system.folder, digest)
    assert system.json("fsck", "--brand=leaving")["summary"]["file_bytes"] == published["version"]["size_bytes"]
    unconfirmed = system.run("brand", "delete", "leaving", "--confirm=leavin")
    assert (unconfirmed.returncode, "[CONFIRMATION_MISSING]" in unconfirmed.stderr) == (4, True), unconfirmed.stderr
    deleted = system.run("brand", "delete", "leaving", "--confirm=leaving")
    assert deleted.returncode == 0, deleted.stderr
    left = system.json("fsck", "--brand=leaving", "--read-files")
    assert left["faults"] == []
    assert left["summary"]["file_bytes"] == left["summary"]["unreferenced_bytes"] == "0"
    refused = system.run("generate", "leaving", "a red mug")
    assert (refused.returncode, "[BRAND_NOT_FOUND]" in refused.stderr) == (3, True), refused.stderr
    deadline = time.monotonic() + 10
    while copies(system.folder, digest):
        assert time.monotonic() < deadline, copies(system.folder, digest)
        time.sleep(0.1)


def another_adapter(folder: Path) -> Path:
    """Harbour's look at half its strength."""
    tensors = load_file("models/studio/brands/harbour/house-style.safetensors")
    with safe_open("models/studio/brands/harbour/house-style.safetensors", "np") as file:
        metadata = file.metadata()
    halved = {name: value * np.float16(0.5) if "lora_B" in name else value for name, value in tensors.items()}
    path = folder / "another.safetensors"
    save_file(halved, path, metadata)
    return path


def copies(folder: Path, digest: str) -> list[Path]:
    """What the workers keep on disk of a file, as it came and compiled."""
    return [path for worker in folder.glob("worker-*") for path in worker.rglob(f"*{digest}*")]
