"""What processes of this machine take, as Linux tells: memory of their own, descriptors and threads.

Looks from outside, at any process; what a figure should be is for others to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    Attributes:
        own_bytes: what it alone has and has written, Private_Dirty of smaps_rollup. Less than its unique set: pages of
            libraries and models that nobody else has read are in that too, and the kernel drops them as it likes.
        descriptors: open files, sockets among them.
        threads: of the kernel.
    """

    own_bytes: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample | None:
    """None: it has ended, or is somebody else's."""
    own = _PROC / str(pid)
    try:
        rows = dict(_row(line) for line in (own / "smaps_rollup").read_text().splitlines()[1:])
        return Sample(
            own_bytes=1024 * rows["Private_Dirty"],
            descriptors=len(list((own / "fd").iterdir())),
            threads=len(list((own / "task").iterdir())),
        )
    except (OSError, KeyError):
        return None


def _row(line: str) -> tuple[str, int]:
    name, _, value = line.partition(":")
    return name, int(value.removesuffix("kB"))


def family(pid: int) -> list[int]:
    """A process and those that it has started, theirs too."""
    found = [pid]
    for each in found:
        for task in _tasks(each):
            found += [int(child) for child in task.split()]
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return [file.read_text() for file in (_PROC / str(pid) / "task").glob("*/children")]
    except OSError:
        return []
