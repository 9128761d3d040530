"""The harness itself, in processes of its own: what is planted is found, and what is sound is left in peace."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from benchmarks.fuzzing.groups import target_named
from benchmarks.fuzzing.mutation import changed
from benchmarks.fuzzing.overseer import fuzz, keep
from benchmarks.fuzzing.plants import PLANTS
from benchmarks.fuzzing.trial import Finding, Trials

WITHIN = 8_000


async def test_planted_faults_are_found_and_parsers_without_them_are_left_in_peace(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="there are wheels for x86-64 Linux only")
    plant = PLANTS["unchecked_numbers"]
    large = b"-" * (300 << 20)  # what whoever starts a child has in memory is none of the inputs' doing
    planted, config = await asyncio.gather(
        fuzz(
            plant.target,
            count=WITHIN,
            seed=1,
            folder=tmp_path / "planted",
            plant="unchecked_numbers",
            until=plant.shows,
        ),
        fuzz("adapters/config", count=1000, seed=1, folder=tmp_path / "sound"),
    )
    found = next(each for what, each in planted.findings.items() if what.startswith(plant.shows))
    assert found.what.startswith("TypeError at looksmith/lora/header.py:")
    assert (config.findings, config.inputs) == ({}, 1000)
    assert 0 < config.slowest_s < 0.2
    assert large
    sound = Trials(target_named(plant.target)).run(found.data)
    assert sound is None, "without the planted fault the same input is refused"


def test_an_input_is_kept_with_what_became_of_it(tmp_path: Path) -> None:
    file = keep(Finding("a/parser", "KeyError at x.py:f", "told", b"\0\xff"), tmp_path)
    assert file.read_bytes() == b"\0\xff"
    assert "KeyError at x.py:f" in file.with_suffix(".txt").read_text()
    assert str(file) in file.with_suffix(".txt").read_text()


def test_a_text_is_changed_by_its_tokens_alike_for_one_seed() -> None:
    text = json.dumps({"a": [1, 2], "b": "c"}).encode()
    made = [changed(text, random.Random(seed), ()) for seed in range(100)]
    assert made == [changed(text, random.Random(seed), ()) for seed in range(100)]
    assert len(set(made)) > 60
