"""Thread pools whose threads are all there from the beginning: a process's count of threads then tells a leak."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

_STARTS_WITHIN_S = 30.0


def full_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool of so many threads; the standard library's starts one at a time, as work comes, over hours."""
    pool = ThreadPoolExecutor(threads, name)
    together = threading.Barrier(threads)
    for future in [pool.submit(together.wait, _STARTS_WITHIN_S) for _ in range(threads)]:
        future.result()
    return pool


def default_pool() -> ThreadPoolExecutor:
    """For ``asyncio.to_thread``, as large as the loop's own would become."""
    return full_pool(min(32, (os.cpu_count() or 1) + 4), "asyncio")
