"""What a worker's machine has left: bytes of disk and of memory, and its clock. Knows nothing about what needs them.

Read from the kernel at each question, which takes some microseconds; what it does not tell is None.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


class Machine:
    """``folder``: where adapters' files lie. ``now`` is the wall clock; ``root`` replaces / in tests."""

    def __init__(
        self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), root: Path = Path("/")
    ) -> None:
        self._folder, self.now, self._root = folder, now, root

    def disk_free(self) -> int | None:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return None

    def memory_free(self) -> int | None:
        """What the machine has left, or the container, whichever is less."""
        left = [free for free in (self._machine(), self._container()) if free is not None]
        return min(left, default=None)

    def _machine(self) -> int | None:
        for line in self._lines("proc/meminfo"):
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
        return None

    def _container(self) -> int | None:
        """By cgroup v2. The page cache of files that nobody uses counts as free, as the kernel takes it back."""
        limit, used = (self._lines(f"sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
        if not (limit and used) or limit[0] == "max":
            return None
        stats = (line.split() for line in self._lines("sys/fs/cgroup/memory.stat"))
        idle = next((int(value) for name, value in stats if name == "inactive_file"), 0)
        return max(0, int(limit[0]) - int(used[0]) + idle)

    def _lines(self, path: str) -> list[str]:
        try:
            return (self._root / path).read_text("ascii").splitlines()
        except OSError:
            return []
