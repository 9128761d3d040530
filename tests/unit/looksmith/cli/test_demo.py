"""What the demo checks first and tells last; what lies between needs the whole stack (tests/e2e/test_demo.py)."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Pictures
from rich.console import Console

from looksmith.cli import demo
from looksmith.cli.demo import (
    BASE,
    PROMPTS,
    SEED,
    Painted,
    Publication,
    check,
    figures_table,
    publications,
    twice_table,
)
from looksmith.cli.tables import Listing
from looksmith.cli.terminal import Problem
from looksmith.client import Image, Painting
from looksmith.nouns import AdapterUse, Brand
from looksmith.v1 import adapter_pb2
from looksmith.v1 import generation_pb2 as pb

PAINTED = Painted(
    brand="marigold",
    prompt=PROMPTS[0],
    version=12,
    digest="0f" * 32,
    worker="worker-0",
    reason="home, adapter on its way",
    tier="store",
    swap_visible_ms=123.45,
    denoise_ms=12345.6,
    total_ms=12470.1,
    seed=7,
)


def png() -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (128, 128), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def painting(worker: str, tier: pb.Tier.ValueType) -> Painting:
    finished = pb.Finished(worker=worker)
    if tier:
        finished.adapters.add(adapter="house-style", version=1, digest="0f" * 32)
    finished.timings.swap_visible.FromMilliseconds(12)
    finished.timings.denoise.FromMilliseconds(345)
    finished.timings.total.FromMilliseconds(400)
    return Painting(
        images=(Image(0, png(), SEED, "", 128, 128),),
        accepted=pb.Accepted(adapters=[adapter_pb2.PinnedAdapter(adapter="house-style")]),
        placements=(pb.Placed(worker=worker, reason="home, adapter on device"),),
        swapped=pb.Swapped(tier=tier),
        finished=finished,
    )


def printed(listing: Listing, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(listing)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_every_figure_and_no_row_wraps(width: int) -> None:
    elsewhere = replace(PAINTED, brand=BASE, version=0, reason="sooner than home, no adapter", tier="-")
    lines = printed(figures_table([PAINTED, elsewhere]), width)
    assert max(map(len, lines)) <= width
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "marigold 12 worker-0 home store 123.5 12345.6 12470.1",
        "base - worker-0 sooner than home - 123.5 12345.6 12470.1",
    ]


def test_cold_and_warm_stand_side_by_side() -> None:
    warm = replace(PAINTED, tier="device", swap_visible_ms=0.25)
    lines = [line.split() for line in printed(twice_table(PAINTED, warm), 80)]
    assert lines[0] == ["marigold", "asked", "twice", "cold", "warm"]
    assert ["tier", "store", "device"] in lines
    assert ["visible", "swap", "ms", "123.5", "0.2"] in lines


def test_the_report_leaves_the_sheet_and_the_figures_of_every_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_brand_and_prompt = {
        (name, prompt): painting(f"worker-{i % 2}", pb.TIER_STORE if i else pb.TIER_UNSPECIFIED)
        for i, name in enumerate((BASE, "harbour", "inkwell"))
        for prompt in PROMPTS
    }
    cold, warm = painting("worker-0", pb.TIER_STORE), painting("worker-0", pb.TIER_DEVICE)
    demo._report(tmp_path, demo.Pictures(by_brand_and_prompt, "harbour", cold, warm))
    images = json.loads((tmp_path / "demo.json").read_text())["images"]
    assert len(images) == 9
    assert images[0] | {"prompt": PROMPTS[0]} == {
        "brand": BASE, "prompt": PROMPTS[0], "version": 0, "digest": "", "worker": "worker-0",
        "reason": "home, adapter on device", "tier": "-",
        "swap_visible_ms": 12.0, "denoise_ms": 345.0, "total_ms": 400.0, "seed": SEED,
    }  # fmt: skip
    assert {(i["brand"], i["version"], i["tier"]) for i in images[3:]} == {
        ("harbour", 1, "store"),
        ("inkwell", 1, "store"),
    }
    with Pictures.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width > 3 * 128 and sheet.height > 3 * 128
    assert "harbour asked twice" in capsys.readouterr().out


def a_publication(folder: Path) -> Publication:
    file = folder / "house-style.safetensors"
    file.touch()
    return Publication(Brand("inkwell", default_adapters=(AdapterUse("house-style"),)), {"house-style": file})


def test_brands_are_read_from_their_records(tmp_path: Path) -> None:
    (tmp_path / "inkwell").mkdir()
    (tmp_path / "inkwell/brand.toml").write_text(
        'display_name = "Inkwell Press"\ndefault_adapters = ["house-style"]\n[adapters]\nhouse-style = "house-style"\n'
    )
    (found,) = publications(tmp_path)
    assert (found.brand.name, found.brand.display_name) == ("inkwell", "Inkwell Press")
    assert found.adapters == {"house-style": tmp_path / "inkwell/house-style"}


def test_an_adapter_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    publication = a_publication(tmp_path)
    check(tmp_path / "out", [publication])
    publication.adapters["house-style"].unlink()
    with pytest.raises(Problem, match=r"house-style.safetensors is missing.*make studio"):
        check(tmp_path / "out", [publication])


def test_a_checkout_without_brands_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no brands"):
        check(tmp_path / "out", [])


def test_a_full_disk_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DISK_BYTES", 10**18)
    with pytest.raises(Problem, match=r"disk: [0-9.]+ GB free"):
        check(tmp_path / "out", [a_publication(tmp_path)])


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError) as caught:
        check(tmp_path / "out", [a_publication(tmp_path)])
    assert caught.value.filename == str(tmp_path / "out") or caught.value.filename == tmp_path / "out"
