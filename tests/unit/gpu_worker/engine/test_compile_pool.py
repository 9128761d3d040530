"""Compiling in the helper process: the same bytes as here, kept on disk, and no broken file believed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.gpu_worker.engine.compile_pool import CompilePool
from services.gpu_worker.engine.compiler import BlockLayout, CompiledAdapter, compile_adapter, plan_adapter
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


def compiled(pool: CompilePool, file: Path, digest: str = DIGEST) -> CompiledAdapter:
    """Compiled or read again, and kept."""
    adapter = pool.compile(file, digest)
    assert not isinstance(adapter, str), adapter
    pool.keep(digest, adapter)
    until_saved(pool)
    return adapter


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "compiled").glob("*.compiled"))


def until_saved(pool: CompilePool) -> None:
    pool._afterwards.submit(int).result(30)  # behind the saving, in its only thread


def test_helper_compiles_what_this_process_would_and_reads_it_again(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    file = file_of(base, tmp_path / "f", rank=16)
    target = pool._target
    plan = plan_adapter(file, target.table, target.layouts, target.dtype)
    assert not isinstance(plan, str)
    assert plan.form.rank == 32, "the smallest class that holds all ranks"
    with file.open("rb", buffering=0) as opened:
        wanted = compile_adapter(opened, plan, torch.zeros(plan.form.elements)).buffer
    assert pool.form(file, DIGEST) == plan.form
    assert torch.equal(compiled(pool, file).buffer, wanted)
    file.unlink()
    again = compiled(pool, file)
    assert torch.equal(again.buffer, wanted), "from the disk: the file is gone"
    assert pool.form(file, DIGEST) == again.form == plan.form


def test_nothing_is_kept_of_a_file_whose_digest_is_not_confirmed(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    file = file_of(base, tmp_path / "f")
    for _ in range(3):
        assert not isinstance(pool.compile(file, DIGEST), str)
    until_saved(pool)
    assert kept(tmp_path) == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before, "what was shared is closed with the adapter"


def test_file_that_takes_anothers_place_is_planned_anew(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f", rank=8)
    assert pool.form(file, DIGEST).rank == 8  # type: ignore[union-attr]  # no reason why not
    file_of(base, tmp_path / "g", rank=32).replace(file)
    assert compiled(pool, file).form.rank == 32


def test_compiled_file_that_rotted_is_compiled_again(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f")
    wanted = compiled(pool, file).buffer.clone()
    (one,) = kept(tmp_path)
    whole = one.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for rotten in (
        whole[: head + 1000] + bytes([whole[head + 1000] ^ 1]) + whole[head + 1001 :],  # of the weights
        whole[:10] + b"?" + whole[11:],  # of the description
        b"\xff" + whole[1:],  # of its length
        whole[:-9],
        whole[:5],
        b"",
    ):
        one.write_bytes(rotten)
        assert pool.form(file, DIGEST) == pool._plan(file)
        assert torch.equal(compiled(pool, file).buffer, wanted)
        assert one.read_bytes() == whole, "and kept again"


def test_helper_that_dies_is_replaced(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f")
    assert not isinstance(pool.form(file, DIGEST), str)
    os.kill(pool._helper.submit(os.getpid).result(30), signal.SIGKILL)
    assert compiled(pool, file).buffer.any()


def test_weights_that_are_not_finite_are_refused_and_nothing_is_kept(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    file = file_of(base, tmp_path / "f")
    tensors = load_file(file)
    next(t for name, t in tensors.items() if name.endswith("lora_up.weight"))[0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(AdapterBroken, match="not finite in float32"):
        pool.compile(file, DIGEST)
    until_saved(pool)
    assert kept(tmp_path) == []


def test_least_recently_used_compiled_files_go_when_the_budget_is_spent(
    pool: CompilePool, base: Path, tmp_path: Path
) -> None:
    names = {}
    for seed in (1, 2):
        file = file_of(base, tmp_path / str(seed), rank=32, seed=seed)
        before = set(kept(tmp_path))
        compiled(pool, file, str(seed) * 64)
        names[seed] = (set(kept(tmp_path)) - before).pop()
    size = names[1].stat().st_size
    pool._limit = 2 * size
    compiled(pool, tmp_path / "1" / "kohya.safetensors", "1" * 64)  # used again
    compiled(pool, file_of(base, tmp_path / "3", rank=32, seed=3), "3" * 64)
    assert names[1].exists()
    assert not names[2].exists()


def test_nothing_is_left_of_what_is_forgotten(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    other = file_of(base, tmp_path / "other", seed=2)
    compiled(pool, other, "b" * 64)
    (others,) = kept(tmp_path)
    file = file_of(base, tmp_path / "f")
    for layouts in ({8: pool._target.layouts[8]}, dict(pool._target.layouts)):  # as a worker with other classes left it
        pool._target = replace(pool._target, layouts=layouts)
        compiled(pool, file)
    assert len(kept(tmp_path)) == 3
    pool.forget(DIGEST)
    until_saved(pool)
    assert kept(tmp_path) == [others]


def test_what_is_forgotten_while_it_is_saved_is_not_kept(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    adapter = pool.compile(file_of(base, tmp_path / "f"), DIGEST)
    assert not isinstance(adapter, str), adapter
    pool.keep(DIGEST, adapter)
    pool.forget(DIGEST)
    until_saved(pool)
    assert list((tmp_path / "compiled").iterdir()) == []


def test_helper_lets_go_of_a_planned_file_that_is_forgotten(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f")
    pool.form(file, DIGEST)
    helper = Path(f"/proc/{pool._helper.submit(os.getpid).result(30)}/fd")

    def opened() -> list[str]:
        return [target for fd in helper.iterdir() if (target := str(fd.readlink())).startswith(str(file))]

    assert opened() == [str(file)]
    file.unlink()
    pool.forget(DIGEST)
    until_saved(pool)
    assert opened() == []


def test_an_adapter_beyond_the_bank_is_named(pool: CompilePool, base: Path, tmp_path: Path) -> None:
    file = file_of(base, tmp_path / "f", rank=64)
    for reason in (pool.form(file, DIGEST), pool.compile(file, DIGEST)):
        assert isinstance(reason, str)
        assert "rank 64" in reason
