"""Compiles adapters in a helper process, beside the engine's thread, and keeps what came out on disk.

A compiled file is found again by everything it depends on: the adapter's digest, the base's, the dtype, the rank class
and the compiler's version. Knows nothing about slots or jobs.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import structlog
import torch
import xxhash
from torch import Tensor

from looksmith.lora import ModuleTable
from services.gpu_worker.engine.compiler import (
    COMPILER_VERSION,
    AdapterPlan,
    BlockLayout,
    CompiledAdapter,
    compile_adapter,
    plan_adapter,
)

log = structlog.get_logger()

_SUFFIX = ".compiled"
_CHECKSUM_BYTES = 8

P = ParamSpec("P")
T = TypeVar("T")


class CompilePool:
    """One helper process, started on entry. A helper that dies is replaced, and its work done again once."""

    def __init__(
        self,
        *,
        table: ModuleTable,
        layouts: Mapping[int, BlockLayout],
        dtype: torch.dtype,
        folder: Path,
        limit_bytes: int,
    ) -> None:
        """Takes what compiling depends on.

        Args:
            table: of the base.
            layouts: the bank's rank classes.
            dtype: of the base.
            folder: for compiled files; the caller's own.
            limit_bytes: of all compiled files; the least recently used go first.
        """
        self._table, self._layouts, self._dtype = table, layouts, dtype
        self._folder, self._limit = folder, limit_bytes
        self._helper: ProcessPoolExecutor
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        for half_written in self._folder.glob("*.part"):
            half_written.unlink()
        self._helper = _new_helper()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.shutdown(cancel_futures=True)

    def plan(self, path: Path) -> AdapterPlan | str:
        """As ``plan_adapter``."""
        return plan_adapter(path, self._table, self._layouts, self._dtype)

    def compile(self, path: Path, digest: str, plan: AdapterPlan) -> CompiledAdapter:
        """Compiles a file whose digest is ``digest``, or reads what came out before. Any thread may call.

        Raises:
            AdapterBroken: its weights are not finite.
        """
        kept = self._folder / f"{self._key(digest, plan)}{_SUFFIX}"
        shared = _Shared.new(plan.elements * self._dtype.itemsize)
        buffer = shared.tensor(self._dtype)
        if _read(kept, buffer):
            shared.close()
            return CompiledAdapter(plan, buffer)
        try:
            try:
                self._run(_compile, path, plan, shared, self._dtype).result()
            except BrokenProcessPool:  # it died of this file or of another: a second helper decides
                self._run(_compile, path, plan, shared, self._dtype).result()
        except BaseException:
            shared.close()
            raise
        saving = self._run(_save, shared, kept, self._limit)  # nobody waits for it
        saving.add_done_callback(lambda _: shared.close())
        return CompiledAdapter(plan, buffer)

    def _key(self, digest: str, plan: AdapterPlan) -> str:
        parts = (digest, self._table.digest, str(self._dtype), str(plan.rank), str(COMPILER_VERSION))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def _run(self, task: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
        with self._lock:
            try:
                return self._helper.submit(task, *arguments, **options)
            except BrokenProcessPool:
                log.warning("compiler.replaced")
                self._helper = _new_helper()
                return self._helper.submit(task, *arguments, **options)


@dataclass(frozen=True)
class _Shared:
    """An anonymous file of this process that the helper maps too, so that what it writes is here at once."""

    pid: int
    descriptor: int
    size: int

    @classmethod
    def new(cls, size: int) -> _Shared:
        descriptor = os.memfd_create("adapter")
        os.ftruncate(descriptor, size)
        return cls(os.getpid(), descriptor, size)

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """A tensor over it, which lives on after ``close``. Any process of the same user may call, until then."""
        with open(f"/proc/{self.pid}/fd/{self.descriptor}", "r+b") as file:  # noqa: PTH123  # no path, but an open file
            return torch.frombuffer(mmap.mmap(file.fileno(), self.size), dtype=dtype)

    def close(self) -> None:
        os.close(self.descriptor)


# What follows but _read runs in the helper.


def _new_helper() -> ProcessPoolExecutor:
    helper = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    helper.submit(os.getpid)  # imports torch now, not in the first job's time
    return helper


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _compile(path: Path, plan: AdapterPlan, shared: _Shared, dtype: torch.dtype) -> None:
    compile_adapter(path, plan, shared.tensor(dtype))


def _save(shared: _Shared, kept: Path, limit_bytes: int) -> None:
    data = shared.tensor(torch.uint8).numpy().data
    part = kept.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.write(_checksum(data))
    part.replace(kept)
    by_age = sorted(kept.parent.glob(f"*{_SUFFIX}"), key=lambda kept: kept.stat().st_mtime_ns)
    excess = sum(kept.stat().st_size for kept in by_age) - limit_bytes
    for oldest in by_age:
        if excess <= 0:
            break
        excess -= oldest.stat().st_size
        oldest.unlink()


def _read(kept: Path, buffer: Tensor) -> bool:
    """Reads a compiled file into ``buffer``, if it is there and whole."""
    data = buffer.view(torch.uint8).numpy().data
    try:
        with kept.open("rb") as file:
            whole = file.readinto(data) == len(data) and file.read(_CHECKSUM_BYTES + 1) == _checksum(data)
    except FileNotFoundError:
        return False
    if whole:
        os.utime(kept)
        return True
    log.warning("adapter.compiled_file_broken", file=kept.name)
    kept.unlink(missing_ok=True)
    buffer.zero_()
    return False


def _checksum(data: memoryview) -> bytes:
    return xxhash.xxh3_64_digest(data)
