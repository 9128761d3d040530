"""What a process is at, on SIGUSR1: the stacks of all threads and of all asyncio tasks, on standard error. It goes on.

Names files, lines and functions; never variables, which hold prompts and tokens. Knows no service.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

log = structlog.get_logger()

#: Frames of one task that are told, the outermost first.
MOST_FRAMES = 40


@contextmanager
def stacks_on_signal() -> Iterator[None]:
    """From entry to exit. Threads are dumped even while the event loop hangs, tasks once it gets on."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, log_tasks)
    # After the loop's own handler, to which it passes the signal on.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR1)


def log_tasks() -> None:
    """One line a task of the running loop, and one that says how many there are."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks:
        log.info("task.stack", task=task.get_name(), frames=list(frames(task.get_coro()))[:MOST_FRAMES])
    log.info("tasks.dumped", tasks=len(tasks))


def frames(awaited: Any) -> Iterator[str]:  # noqa: ANN401  # coroutine, generator or future: whatever is awaited
    """Where a coroutine stands, and what it awaits in turn, down to what is no code of Python's."""
    while awaited is not None:
        frame = next((f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, name, None))), None)
        if frame:
            yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        awaited = _awaited_by(awaited)


def _awaited_by(awaited: Any) -> Any:  # noqa: ANN401  # as above
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if (inner := getattr(awaited, name, None)) is not None:
            return inner
    # What the rest awaits only the collector knows: a step of an async generator hides which one it is of, in Python
    # 3.11, and grpc's own coroutines hide what they drive, one level below.
    kept = gc.get_referents(awaited)
    inner = [*kept, *(each for one in kept if "scope_struct" in type(one).__name__ for each in gc.get_referents(one))]
    return next((each for each in inner if inspect.isasyncgen(each) or inspect.iscoroutine(each)), None)
