"""How many threads of this machine want a core of it. Knows nothing about whose they are."""

from __future__ import annotations

import os
from pathlib import Path

_LOADAVG = Path("/proc/loadavg")


def crowding() -> float:
    """Threads that run or could run at this moment, for each core, all processes' together.

    1 where every one has a core, and where the system does not tell (proc(5); Linux alone does).
    """
    try:
        runnable = int(_LOADAVG.read_text("ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 1.0
    return max(1.0, runnable / (os.cpu_count() or 1))
