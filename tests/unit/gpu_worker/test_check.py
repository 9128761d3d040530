"""The examination as a process: what its JSON says of recipe files, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.gpu_worker import check
from services.gpu_worker.engine.recipe import base_digest, file_digest
from services.gpu_worker.recipe_report import digest_of

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "deploy" / "recipes" / "studio.toml"
STUDIO = ROOT / "models" / "studio"
LORA = STUDIO / "distill" / "pytorch_lora_weights.safetensors"
#: Where sha256 of each table can be written.
PLACES = {"base": 'family = "studio"', "distill": "scale = 1.0"}

Checked = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Runs the examination with a command line: its exit code, and what it says."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr("sys.argv", ["check", *map(str, arguments)])
        code = 0
        try:
            check.main()
        except SystemExit as left:
            code = int(left.code or 0)
        said, aside = capsys.readouterr()
        found = json.loads(said) if said else {}
        return code, found | {"aside": aside}

    return run


def pinned(folder: Path, **digests: str) -> Path:
    text = SHIPPED.read_text().replace("../../models", str(ROOT / "models"))
    for table, digest in digests.items():
        text = text.replace(PLACES[table], f'{PLACES[table]}\nsha256 = "{digest}"')
    file = folder / "pinned.toml"
    file.write_text(text)
    return file


def test_tells_files_digests_models_steps_and_memory_of_a_recipe_that_can_be_served(checked: Checked) -> None:
    code, found = checked(SHIPPED, "--slots=32:6,8:12", "--batch-sizes=1,2", "--device-memory=1GiB")
    assert code == 0
    (recipe,) = found["recipes"]
    assert (recipe["name"], recipe["family"], recipe["mistakes"]) == ("studio", "studio", [])
    base, distill = recipe["sources"]
    assert base["sha256"] == base_digest(STUDIO / "base")
    assert base["bytes"] == sum(file.stat().st_size for file in (STUDIO / "base").rglob("*.safetensors"))
    assert (distill["table"], distill["sha256"], distill["pinned"]) == ("distill", file_digest(LORA), False)
    assert "for their sha256" in found["aside"]
    assert recipe["found"]["fused_layers"] > 0
    tables = recipe["sampler"]["tables"]
    assert list(tables) == ["1", "2", "4", "8"]
    assert [step["timestep"] for step in tables["4"]["steps"]] == [999, 749, 499, 249]
    memory = found["memory"]
    (bank,) = memory["banks"]
    assert bank["slots"] == {"32": 6, "8": 12}
    assert memory["device_bytes"] == 1 << 30 and bank["brands"]["8"] > bank["brands"]["128"] > 0
    (held,) = memory["bases"]
    assert memory["total_bytes"] == held["bytes"] + bank["bytes"] + memory["reserve_bytes"]


def test_wrong_digests_of_base_and_distillation_are_both_told_and_right_ones_pass(
    checked: Checked, tmp_path: Path
) -> None:
    file = pinned(tmp_path, base="0" * 64, distill="1" * 64)
    code, found = checked(file)
    assert code == 4
    lines = file.read_text().splitlines()
    told = [(mistake["key"], lines[mistake["line"] - 1]) for mistake in found["recipes"][0]["mistakes"]]
    assert told == [("base.sha256", f'sha256 = "{"0" * 64}"'), ("distill.sha256", f'sha256 = "{"1" * 64}"')]
    code, found = checked(pinned(tmp_path, base=digest_of(STUDIO / "base"), distill=digest_of(LORA)))
    assert code == 0
    assert [source["pinned"] for source in found["recipes"][0]["sources"]] == [True, True]


def test_quick_compares_no_digests_and_reads_nothing_for_them(checked: Checked, tmp_path: Path) -> None:
    code, found = checked(pinned(tmp_path, base="0" * 64), "--quick")
    assert code == 0
    assert [source["sha256"] for source in found["recipes"][0]["sources"]] == [None, None]
    assert not found["aside"]


def test_a_file_with_mistakes_does_not_hide_what_is_found_of_the_next(checked: Checked, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(SHIPPED.read_text().replace("steps = [1,", "steps = [0,").replace("../../models/studio/base", "no"))
    code, found = checked(bad, SHIPPED, "--quick")
    assert code == 4
    first, second = found["recipes"]
    assert first["file"] == str(bad) and "name" not in first
    assert {"steps", "base.source"} <= {mistake["key"] for mistake in first["mistakes"]}
    assert second["name"] == "studio" and not second["mistakes"]
    assert [base["recipes"] for base in found["memory"]["bases"]] == [["studio"]]


def test_recipes_that_a_device_can_t_hold_are_refused_though_each_is_in_order(checked: Checked) -> None:
    code, found = checked(SHIPPED, "--quick", "--device-memory=100MiB")
    assert code == 4
    assert not found["recipes"][0]["mistakes"]
    assert "a device that has 100.0 MiB" in found["memory"]["refusal"]
    assert found["memory"]["banks"][0]["brands"]["128"] == 0


def test_options_are_read_as_the_worker_s_settings_and_a_bad_one_is_named(checked: Checked) -> None:
    for option in ("--slots=32:5", "--batch-sizes=1", "--device-memory=much"):
        code, found = checked(SHIPPED, option)
        assert code == 2
        assert option.partition("=")[0] in found["aside"]
