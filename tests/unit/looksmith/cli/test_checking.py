"""`looksmith publish --check` says without any server what the registry would say."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from looksmith.cli.app import app
from looksmith.lora import Code
from tests.unit.looksmith.lora.hostile_files import ADAPTED, CONV, HOSTILE, PAIRS, SDXL, STUDIO, TO_K, TO_Q
from tests.unit.looksmith.lora.lora_files import diffusers, peft, peft_folder, safetensors

NO_SERVER = {"LOOKSMITH_REGISTRY": "127.0.0.1:1", "COLUMNS": "80"}


def looksmith(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env=NO_SERVER)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "look.safetensors") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_a_good_file_is_described(write: Callable[..., Path]) -> None:
    file = write(safetensors(diffusers(STUDIO, {ADAPTED: 2, f"unet.{CONV}": 4})))
    result = looksmith("publish", "--check", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{file} is an adapter for studio: diffusers, rank 2/4, 2 modules\n" in result.stdout
    assert "2 in unet" in result.stdout
    assert "note: W_BASE_UNKNOWN: " in result.stdout
    assert Code.W_BASE_UNKNOWN.fix in result.stdout


def test_a_good_peft_folder_is_described_as_json(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "look", peft(STUDIO, "unet", {TO_Q: 2, TO_K: 2}), {"lora_alpha": 1})
    result = looksmith("publish", "--check", folder, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert (document["ok"], document["dialect"], document["family"]) == (True, "peft", "studio")
    assert (document["ranks"], document["scales"], document["components"]) == ([2], [0.5], {"unet": 2})
    assert [warning["code"] for warning in document["warnings"]] == ["W_BASE_UNKNOWN"]


def test_what_a_file_says_of_its_training_is_told(write: Callable[..., Path]) -> None:
    said = {"ss_clip_skip": "2", "ss_sd_model_name": "/home/ann/base.ckpt", "modelspec.trigger_phrase": "acme, ink"}
    file = write(safetensors(diffusers(STUDIO, {ADAPTED: 2}), said))
    told = looksmith("publish", "--check", file).stdout
    assert "  lineage     trigger words acme, ink; clip skip 1; trained from base.ckpt\n" in told
    lineage = json.loads(looksmith("publish", "--check", file, "--json").stdout)["lineage"]
    assert lineage == {
        "trigger_words": ["acme", "ink"], "clip_skip": 1, "prediction_type": "", "trained_from": "base.ckpt",
    }  # fmt: skip


def test_the_family_decides(write: Callable[..., Path]) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    file = write(safetensors(diffusers(SDXL, {name: 2})))
    assert looksmith("publish", "--check", file, "--family", "sdxl").exit_code == 0
    result = looksmith("publish", "--check", file, "--family", "sd15")
    assert result.exit_code == 4
    assert "this looks like an SDXL LoRA" in result.stdout


@pytest.mark.parametrize("name", ["full of faults", "NaN", "zip", "wrong width"])
def test_every_problem_has_what_why_and_what_to_do(write: Callable[..., Path], name: str) -> None:
    hostile = HOSTILE[name]
    file = write(hostile.build())
    result = looksmith("publish", "--check", file)
    assert result.exit_code == 4
    assert result.stderr.startswith(f"error: {file} would be refused: {hostile.code}")
    assert result.stderr.count("\n") == 1

    document = json.loads(looksmith("publish", "--check", file, "--json").stdout)
    assert not document["ok"]
    assert document["problems"][0]["code"] == hostile.code.name
    for problem in document["problems"]:
        code = Code[problem["code"]]
        assert (problem["why"], problem["what_to_do"]) == (code.why, code.fix)
        assert f"{code}: {problem['what']}\n  why         {code.why}\n  what to do  {code.fix}\n" in result.stdout


def test_as_many_problems_are_told_as_the_registry_tells(write: Callable[..., Path]) -> None:
    result = looksmith("publish", "--check", write(HOSTILE["full of faults"].build()), "--json")
    assert len(json.loads(result.stdout)["problems"]) == 16
    assert result.stderr.endswith("E_PAIR and 15 more\n")


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    result = looksmith("publish", "--check", tmp_path)
    assert result.exit_code == 4
    assert result.stdout.startswith("E_FORMAT: the folder has no adapter_config.json")


def test_a_family_without_a_table_is_refused(write: Callable[..., Path]) -> None:
    result = looksmith("publish", "--check", write(safetensors(PAIRS)), "--family", "sd9")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "no module table of the family 'sd9'" in result.stderr


@pytest.mark.parametrize(
    "command",
    [("publish",), ("publish", "b/a"), ("publish", "--check", "no-such-file"), ("publish", "b/a", "--check", __file__)],
    ids=shlex.join,
)
def test_a_wrong_command_line_ends_with_2(command: tuple[str, ...]) -> None:
    result = looksmith(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", ["look.safetensors", "look.gguf"])
def test_only_files_of_torch_are_told_how_to_become_others(write: Callable[..., Path], name: str) -> None:
    assert "python -c" not in looksmith("publish", "--check", write(HOSTILE["zip"].build(), name)).stdout


def test_a_file_of_torch_passes_after_the_conversion_that_is_advised(tmp_path: Path) -> None:
    (tmp_path / "good.safetensors").write_bytes(safetensors(PAIRS))
    file = tmp_path / "it's old.ckpt"
    save = "import sys, torch; from safetensors.torch import load_file; "
    save += "torch.save({'state_dict': load_file(sys.argv[1]), 'epoch': 3}, sys.argv[2])"
    subprocess.run([sys.executable, "-c", save, tmp_path / "good.safetensors", file], check=True)

    problem = json.loads(looksmith("publish", "--check", file, "--json").stdout)["problems"][0]
    assert problem["code"] == "E_MAGIC"
    advised = shlex.split(problem["what_to_do"].partition("this converts it: ")[2])
    subprocess.run([sys.executable, *advised[1:]], check=True)
    assert looksmith("publish", "--check", f"{file}.safetensors").exit_code == 0
