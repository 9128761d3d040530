"""Many files at a time: their bytes are counted as they come, and one failure ends all. Knows nothing of stores."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_PIECE_BYTES = 1 << 20


class Stopped(Exception):
    """Another thread failed, or the caller was interrupted: what this one does is of no use any more."""


class Tally:
    """Bytes done out of ``total``, counted from several threads."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self._total, self._on_progress = total, on_progress
        self._done, self._stopped, self._lock = 0, False, threading.Lock()
        on_progress(0, total)

    def add(self, count: int) -> None:
        """Counts bytes; negative where they have to be done again.

        Raises:
            Stopped: so that a long file ends in its middle.
        """
        with self._lock:
            if self._stopped:
                raise Stopped
            self._done += count
            self._on_progress(self._done, self._total)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True


def sha256_of(path: Path, tally: Tally) -> hashlib._Hash:
    """Of what a file holds now; can be updated with what comes behind it."""
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            sha256.update(piece)
            tally.add(len(piece))
    return sha256


def several(work: Callable[[T], None], items: Iterable[T], *, at_once: int, tally: Tally) -> None:
    """Runs ``work`` on each item, in that order, ``at_once`` at a time; returns or raises once no thread is left.

    Raises:
        Exception: the first that ``work`` raised.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix="base") as threads:
        running = [threads.submit(work, item) for item in items]
        try:
            for ended in as_completed(running):
                ended.result()
        except BaseException:  # Ctrl-C too
            tally.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
