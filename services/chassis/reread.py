"""What files say, read again whenever one of them was replaced; files that became unusable change nothing.

Knows nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


class Unusable(ValueError):
    """A file that can't be read, or says what it must not; names the file."""


class Reread(Generic[T]):
    """The value of ``files``. Its first reading raises what ``read`` raises; of later ones only Unusable is survived.

    Args:
        what: names it in the log.
        read: the value, anew.
        files: those that ``read`` looks at.
    """

    def __init__(self, what: str, read: Callable[[], T], *files: Path) -> None:
        self._what, self._read, self._files = what, read, files
        self._seen = self._stamps()
        self._value = read()

    def value(self) -> T:
        """By what the files say now; the same object while they say the same."""
        if (stamps := self._stamps()) != self._seen:
            self._seen = stamps
            try:
                self._value = self._read()
                log.info("files.read", what=self._what, files=[str(file) for file in self._files])
            except Unusable as error:
                told = {"what": self._what, "error": str(error), "kept": "what was read before"}
                log.error("files.unusable", **told)  # noqa: TRY400  # the error says it all
        return self._value

    def _stamps(self) -> list[tuple[int, int, int]]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
