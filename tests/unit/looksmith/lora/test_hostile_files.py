"""Each hostile file is refused with its code, in words a person can act on, and for little time and memory."""

import gc
import hashlib
import json
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from looksmith.lora import Code, LoraError, inspect, pack
from tests.unit.looksmith.lora.hostile_files import (
    DATA,
    HOSTILE,
    KOHYA,
    PAIRS,
    STUDIO,
    TABLES,
    TO_K,
    TO_Q,
    Hostile,
    packed,
    with_entry,
)
from tests.unit.looksmith.lora.lora_files import described, framed, peft, peft_folder, safetensors

ROOT = Path(__file__).parents[4]
REFUSALS = [code for code in Code if code.name.startswith("E_")]
TRIES = 3
SECONDS = 0.2
BYTES = 64 << 20


@pytest.fixture(scope="module", autouse=True)
def only_own_garbage() -> Iterator[None]:
    """What earlier tests have left in memory is no work for the collector while these ones are timed."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def refusal_of(file: Path, family: str = "studio") -> LoraError:
    with pytest.raises(LoraError) as caught:
        inspect(file, TABLES[family])
    return caught.value


def cost_of(work: Callable[[], object]) -> float:
    """Seconds of the processor that work takes: a busy machine lengthens them little, and not always."""
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_with_its_code_at_little_cost(tmp_path: Path, hostile: Hostile) -> None:
    file = tmp_path / "file.safetensors"
    file.write_bytes(hostile.build())
    error = refusal_of(file, hostile.family)
    assert error.code is hostile.code
    assert all(len(problem.what) < 1000 and problem.what.isascii() for problem in error.problems)
    assert all(problem.what.isprintable() for problem in error.problems)

    def in_time() -> bool:
        seconds = [cost_of(lambda: refusal_of(file, hostile.family)) for _ in range(TRIES)]
        return statistics.median(seconds) < SECONDS

    assert any(in_time() for _ in range(TRIES))

    tracemalloc.start()
    try:
        refusal_of(file, hostile.family)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BYTES


def test_there_are_enough_hostile_files_and_no_two_are_alike() -> None:
    counts = Counter(hostile.code for hostile in HOSTILE.values())
    assert len(HOSTILE) >= 60
    assert len({(hashlib.sha256(one.build()).digest(), one.family) for one in HOSTILE.values()}) == len(HOSTILE)
    assert {code for code in REFUSALS if counts[code] < 2} == set()
    assert len(counts) == len(REFUSALS) == 20


def test_every_code_is_documented_with_why_and_what_to_do() -> None:
    page = (ROOT / "docs" / "adapter-errors.md").read_text()
    for code in {hostile.code for hostile in HOSTILE.values()}:
        assert f"| `{code}` | {code.why} | {code.fix} |" in page


def test_the_files_that_hostile_ones_are_made_from_pass(tmp_path: Path) -> None:
    good = [safetensors(PAIRS), safetensors(KOHYA), packed(), with_entry(), framed(described(PAIRS), DATA)]
    for i, data in enumerate(good):
        (tmp_path / str(i)).write_bytes(data)
        assert inspect(tmp_path / str(i), STUDIO).modules


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse: it takes no room
    assert refusal_of(tmp_path / "file").code is Code.E_SIZE


def weights_only(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def config_only(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def pickled_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def pickle_under_the_name_of_safetensors(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(HOSTILE["pickle"].build())


def config_of(**fields: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2, **fields}))

    return write


def config_text(text: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_bytes(text)

    return write


FOLDERS: Mapping[str, tuple[Callable[[Path], None], Code]] = {
    "no config": (weights_only, Code.E_FORMAT),
    "no weights": (config_only, Code.E_FORMAT),
    "weights in a pickle": (pickled_weights, Code.E_FORMAT),
    "pickle under another name": (pickle_under_the_name_of_safetensors, Code.E_MAGIC),
    "config of two megabytes": (config_text(b" " * (2 << 20) + b"{}"), Code.E_FORMAT),
    "config in UTF-16": (config_text('{"r": 2, "lora_alpha": 2}'.encode("utf-16")), Code.E_JSON),
    "config with a duplicate key": (config_text(b'{"r": 2, "r": 4, "lora_alpha": 2}'), Code.E_JSON),
    "config that is a list": (config_text(b"[]"), Code.E_FORMAT),
    "config without alpha": (config_text(b'{"r": 2}'), Code.E_ALPHA_MISSING),
    "config that lies about the rank": (config_of(r=4), Code.E_RANK),
    "config that lies about one rank": (config_of(rank_pattern={TO_K: 4}), Code.E_RANK),
    "config of DoRA": (config_of(use_dora=True), Code.E_UNSUPPORTED),
    "config of LoHa": (config_of(peft_type="LOHA"), Code.E_UNSUPPORTED),
    "config with an expression that never ends": (config_of(rank_pattern={"(.*)*x": 2}), Code.E_UNSUPPORTED),
    "config with an alpha below 0": (config_of(lora_alpha=-1), Code.E_ALPHA),
}


@pytest.mark.parametrize(("spoil", "code"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_hostile_peft_folder_is_refused_with_its_code(
    tmp_path: Path, spoil: Callable[[Path], None], code: Code
) -> None:
    folder = peft_folder(tmp_path / "folder", peft(STUDIO, "unet", {TO_Q: 2, TO_K: 2}), {})
    pack(folder).write(tmp_path / "packed")
    assert inspect(tmp_path / "packed", STUDIO).modules
    spoil(folder)

    def judge() -> None:
        pack(folder).write(tmp_path / "packed")
        inspect(tmp_path / "packed", STUDIO)

    with pytest.raises(LoraError) as caught:
        judge()
    assert caught.value.code is code
