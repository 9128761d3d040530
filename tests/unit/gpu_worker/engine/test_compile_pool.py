"""Compiling in the helper process: the same bytes as here, kept on disk, and no broken file believed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import AdapterPlan, BlockLayout, compile_adapter
from services.gpu_worker.engine.protocol import AdapterBroken
from tests.unit.gpu_worker.engine import tiny

DIGEST = "a" * 64


@pytest.fixture
def pool(base: Path, tmp_path: Path) -> Iterator[CompilePool]:
    table = tiny.table_of(base)
    layouts = {rank: BlockLayout.of(table, rank=rank, dtype=torch.float32) for rank in (8, 32)}
    with CompilePool(
        table=table, layouts=layouts, dtype=torch.float32, folder=tmp_path / "compiled", limit_bytes=10_000_000
    ) as pool:
        yield pool


def file_of(base: Path, folder: Path, *, rank: int = 8, seed: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    return tiny.write_lora("kohya", tiny.random_lora(base, seed=seed, rank=rank, text_encoder=True), folder)


def plan_of(pool: CompilePool, file: Path) -> AdapterPlan:
    plan = pool.plan(file)
    assert not isinstance(plan, str), plan
    return plan


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "compiled").glob("*.compiled"))


def until_saved(pool: CompilePool) -> None:
    pool._helper.submit(os.getpid).result(30)  # behind the saving, in its only process


def test_helper_compiles_what_this_process_would_and_reads_it_again(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    file = file_of(base, tmp_path / "f", rank=16)
    plan = plan_of(pool, file)
    assert plan.rank == 32, "the smallest class that holds all ranks"
    wanted = compile_adapter(file, plan, torch.zeros(plan.elements)).buffer
    assert torch.equal(pool.compile(file, DIGEST, plan).buffer, wanted)
    until_saved(pool)
    file.unlink()
    assert torch.equal(pool.compile(file, DIGEST, plan).buffer, wanted), "from the disk: the file is gone"


def test_compiled_file_that_rotted_is_compiled_again(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f")
    plan = plan_of(pool, file)
    wanted = pool.compile(file, DIGEST, plan).buffer.clone()
    until_saved(pool)
    (one,) = kept(tmp_path)
    data = bytearray(one.read_bytes())
    data[1000] ^= 1
    one.write_bytes(data)
    assert torch.equal(pool.compile(file, DIGEST, plan).buffer, wanted)
    until_saved(pool)
    one.write_bytes(one.read_bytes()[:-9])
    assert torch.equal(pool.compile(file, DIGEST, plan).buffer, wanted)


def test_helper_that_dies_is_replaced(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f")
    plan = plan_of(pool, file)
    os.kill(pool._helper.submit(os.getpid).result(30), signal.SIGKILL)
    assert pool.compile(file, DIGEST, plan).buffer.any()


def test_weights_that_are_not_finite_are_refused_and_nothing_is_kept(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    file = file_of(base, tmp_path / "f")
    tensors = load_file(file)
    next(t for name, t in tensors.items() if name.endswith("lora_up.weight"))[0, 0] = float("nan")
    save_file(tensors, file)
    plan = plan_of(pool, file)
    with pytest.raises(AdapterBroken, match="not finite in float32"):
        pool.compile(file, DIGEST, plan)
    until_saved(pool)
    assert kept(tmp_path) == []


def test_least_recently_used_compiled_files_go_when_the_budget_is_spent(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    names = {}
    for seed in (1, 2):
        file = file_of(base, tmp_path / str(seed), rank=32, seed=seed)
        plan = plan_of(pool, file)
        before = set(kept(tmp_path))
        pool.compile(file, str(seed) * 64, plan)
        until_saved(pool)
        names[seed] = (set(kept(tmp_path)) - before).pop()
    size = names[1].stat().st_size
    pool._limit = 2 * size
    pool.compile(tmp_path / "1" / "kohya.safetensors", "1" * 64, plan)  # used again
    file = file_of(base, tmp_path / "3", rank=32, seed=3)
    pool.compile(file, "3" * 64, plan)
    until_saved(pool)
    assert names[1].exists()
    assert not names[2].exists()


def test_an_adapter_beyond_the_bank_is_named(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    plan = pool.plan(file_of(base, tmp_path / "f", rank=64))
    assert isinstance(plan, str)
    assert "rank 64" in plan
