"""Compiles adapters in a helper process, beside the engine's thread, and keeps what came out on disk.

A compiled file is found again by everything it depends on: the adapter's digest, the base's, the dtype, the rank
classes and the compiler's version. Knows nothing about slots or jobs.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ParamSpec, Self, TypeVar

import structlog
import torch
import xxhash
from torch import Tensor

from looksmith.lora import ModuleTable
from services.gpu_worker.engine.compiler import (
    COMPILER_VERSION,
    AdapterForm,
    AdapterPlan,
    BlockLayout,
    CompiledAdapter,
    compile_adapter,
    plan_adapter,
)

log = structlog.get_logger()

_SUFFIX = ".compiled"
# A compiled file: the length of its JSON, eight bytes; the JSON, as AdapterForm.described; the buffer; the checksum.
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 8
_AFTER_S = 0.1  # until an adapter that was compiled has been copied to the device, undisturbed
_MOST_PLANS = 16  # of files that are measured and not compiled yet

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
        self._target = _Target(table, layouts, dtype)
        self._folder, self._limit = folder, limit_bytes
        self._helper: ProcessPoolExecutor
        self._lock = threading.Lock()
        self._unsaved: weakref.WeakKeyDictionary[CompiledAdapter, _Shared] = weakref.WeakKeyDictionary()
        self._afterwards = ThreadPoolExecutor(1, "compiled")
        self._spare: _Shared | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        for half_written in self._folder.glob("*.part"):
            half_written.unlink()
        self._helper = self._new_helper()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._afterwards.shutdown(cancel_futures=True)
        self._helper.shutdown(cancel_futures=True)

    def form(self, path: Path, digest: str) -> AdapterForm | str:
        """What a file becomes, from its header; or why the bank can't hold it. Any thread may call.

        Raises:
            LoraError: the file does not fit the base.
        """
        try:
            with self._kept(digest).open("rb") as file:
                return self._target.form(_read_description(file)[0])
        except FileNotFoundError:
            return self._plan(path)
        except _BROKEN:
            return self._plan(path)

    def compile(self, path: Path, digest: str) -> CompiledAdapter | str:
        """Compiles a file, or reads what was kept of ``digest``; or says why the bank can't hold it.

        Any thread may call. The file's digest need not be checked yet.

        Raises:
            LoraError: the file does not fit the base.
            AdapterBroken: its weights are not finite.
        """
        if kept := _read(self._kept(digest), self._target):
            return kept
        form = self._plan(path)
        if isinstance(form, str):
            return form
        shared = self._memory(form.elements * self._target.dtype.itemsize)
        self._ask(_compile, path, shared)
        adapter = CompiledAdapter(form, shared.tensor(self._target.dtype))
        with self._lock:
            self._unsaved[adapter] = shared
        return adapter

    def keep(self, digest: str, adapter: CompiledAdapter) -> None:
        """Saves what was compiled, without waiting for it. To be called once the file's digest has been checked."""
        with self._lock:
            shared = self._unsaved.pop(adapter, None)
        if shared:
            due = time.monotonic() + _AFTER_S
            self._afterwards.submit(self._finish, digest, adapter.form.described, shared, due)

    def forget(self, digest: str) -> None:
        """Removes what was kept of a file that is gone, for whatever it was compiled, without waiting for it."""
        self._afterwards.submit(self._remove, digest)

    def _remove(self, digest: str) -> None:
        """Comes after all saving that was asked for before."""
        try:
            for kept in self._folder.glob(f"{digest}.*"):
                kept.unlink(missing_ok=True)
            self._submit(_close_removed).result()
        except BrokenProcessPool:
            pass  # nothing is open any more
        except Exception as error:  # noqa: BLE001  # a disk that can't be written, say: nobody else would hear of it
            log.error("adapter.not_removed", digest=digest, error=str(error))  # noqa: TRY400  # the error says all

    def _memory(self, size: int) -> _Shared:
        with self._lock:
            spare, self._spare = self._spare, None
        return spare if spare and spare.size == size else _Shared.new(size)

    def _finish(self, digest: str, described: dict[str, Any], shared: _Shared, due: float) -> None:
        """What a compiled adapter leaves to do once it is in use. Takes less time than compiling: none piles up."""
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            self._submit(_save, shared, described, self._kept(digest), self._limit).result()
        except Exception as error:  # noqa: BLE001  # a full disk, say: it will be compiled again
            log.warning("adapter.not_kept", digest=digest, error=str(error))
        # Memory for the next one: adapters of a base are mostly alike, and to find it takes as long as to fill it.
        spare = _Shared.new(shared.size)
        spare.touch()
        self._spare = spare

    def _plan(self, path: Path) -> AdapterForm | str:
        described = self._ask(_describe, path)
        return described if isinstance(described, str) else self._target.form(described)

    def _kept(self, digest: str) -> Path:
        key = hashlib.sha256("|".join(self._target.key).encode()).hexdigest()
        return self._folder / f"{digest}.{key}{_SUFFIX}"

    def _ask(self, task: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        try:
            return self._submit(task, *arguments, **options).result()
        except BrokenProcessPool:  # it died of this file or of another: a second helper decides
            return self._submit(task, *arguments, **options).result()

    def _submit(self, task: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
        with self._lock:
            try:
                return self._helper.submit(task, *arguments, **options)
            except BrokenProcessPool:
                log.warning("compiler.replaced")
                self._helper = self._new_helper()
                return self._helper.submit(task, *arguments, **options)

    def _new_helper(self) -> ProcessPoolExecutor:
        helper = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(os.getpid(), self._target))
        helper.submit(os.getpid)  # imports torch now, not in the first job's time
        return helper


@dataclass(frozen=True)
class _Target:
    """What all adapters are compiled for."""

    table: ModuleTable
    layouts: Mapping[int, BlockLayout]
    dtype: torch.dtype

    @property
    def key(self) -> tuple[str, ...]:
        return self.table.digest, str(self.dtype), str(sorted(self.layouts)), str(COMPILER_VERSION)

    def form(self, described: Mapping[str, Any]) -> AdapterForm:
        rank = described["rank"]
        return AdapterForm.of(self.layouts[rank] if rank else None, described["text"], self.dtype)


@dataclass(frozen=True)
class _Shared:
    """An anonymous file of this process that the helper maps too, so that what it writes is here at once."""

    pid: int
    descriptor: int
    size: int

    @classmethod
    def new(cls, size: int) -> _Shared:
        """One of zeros, closed with the last reference to it in this process."""
        descriptor = os.memfd_create("adapter")
        shared = cls(os.getpid(), descriptor, size)
        weakref.finalize(shared, os.close, descriptor)
        os.ftruncate(descriptor, size)
        return shared

    def touch(self) -> None:
        """Makes the kernel find all of its memory now."""
        for start in range(0, self.size, len(_ZEROS)):
            os.pwrite(self.descriptor, _ZEROS[: self.size - start], start)

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """A tensor over it, which outlives it. Any process of the same user may call."""
        with open(f"/proc/{self.pid}/fd/{self.descriptor}", "r+b") as file:  # noqa: PTH123  # no path, but an open file
            memory = mmap.mmap(file.fileno(), self.size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        return torch.frombuffer(memory, dtype=dtype)


_ZEROS = bytes(1 << 20)


# Compiled files

_BROKEN = (ValueError, KeyError, TypeError)  # what a description that is none raises


def _read_description(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """What a compiled file says of itself, and the bytes that say it."""
    length = file.read(_LENGTH_BYTES)
    size = int.from_bytes(length, "little")
    if size > os.fstat(file.fileno()).st_size:
        raise ValueError("the file is cut")
    text = file.read(size)
    return json.loads(text), length + text


def _read(kept: Path, target: _Target) -> CompiledAdapter | None:
    """Reads a compiled file, if it is there and whole."""
    try:
        with kept.open("rb", buffering=0) as file:
            described, head = _read_description(file)
            form = target.form(described)
            buffer = _memory(form.elements, target.dtype)
            data = buffer.view(torch.uint8).numpy().data
            whole = file.readinto(data) == len(data) and file.read(_CHECKSUM_BYTES + 1) == _checksum(head, data)
    except FileNotFoundError:
        return None
    except _BROKEN:
        whole = False
    if whole:
        os.utime(kept)
        return CompiledAdapter(form, buffer)
    log.warning("adapter.compiled_file_broken", file=kept.name)
    kept.unlink(missing_ok=True)
    return None


def _memory(elements: int, dtype: torch.dtype) -> Tensor:
    """Memory of this process in huge pages, of which the first touch takes a fraction of the time."""
    memory = mmap.mmap(-1, elements * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)


def _checksum(head: bytes, data: memoryview) -> bytes:
    checksum = xxhash.xxh3_64(head)
    checksum.update(data)
    return checksum.digest()


# What follows runs in the helper.

_target: _Target
#: Files that have been planned, by path; open, so that no other file can be taken for them.
_planned: OrderedDict[Path, tuple[BinaryIO, AdapterPlan]] = OrderedDict()


def _begin(parent: int, target: _Target) -> None:
    global _target  # noqa: PLW0603  # a process of its own, with one purpose
    _target = target
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _describe(path: Path) -> dict[str, Any] | str:
    """Plans a file, if the plan is not at hand."""
    if path in _planned:
        file, plan = _planned[path]
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return plan.form.described
        _planned.pop(path)[0].close()
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb", buffering=0))
        opened = Path(f"/proc/self/fd/{file.fileno()}")
        found = plan_adapter(opened, _target.table, _target.layouts, _target.dtype)
        if isinstance(found, str):
            return found
        stack.pop_all()  # it stays open
    _planned[path] = (file, found)
    while len(_planned) > _MOST_PLANS:
        _planned.popitem(last=False)[1][0].close()
    return found.form.described


def _close_removed() -> None:
    """Lets go of planned files that have no name any more: open, they would keep their place on the disk."""
    for path in [path for path, (file, _) in _planned.items() if not os.fstat(file.fileno()).st_nlink]:
        _planned.pop(path)[0].close()


def _compile(path: Path, shared: _Shared) -> None:
    _describe(path)  # again, if its plan has gone
    file, plan = _planned.pop(path)
    with file:
        compile_adapter(file, plan, shared.tensor(_target.dtype))


def _save(shared: _Shared, described: Mapping[str, Any], kept: Path, limit_bytes: int) -> None:
    data = shared.tensor(torch.uint8).numpy().data
    text = json.dumps(described).encode()
    head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    part = kept.with_suffix(".part")
    with part.open("wb") as file:
        file.write(head)
        file.write(data)
        file.write(_checksum(head, data))
    part.replace(kept)
    by_age = sorted(kept.parent.glob(f"*{_SUFFIX}"), key=lambda kept: kept.stat().st_mtime_ns)
    excess = sum(kept.stat().st_size for kept in by_age) - limit_bytes
    for oldest in by_age:
        if excess <= 0:
            break
        excess -= oldest.stat().st_size
        oldest.unlink()
