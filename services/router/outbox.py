"""The commands that wait until a worker's session can send them: what is said twice waits once, and there is a bound.

Knows commands by what they are about; who decides on them, and how they travel, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

from services.router.members import Command, Drain, Evict, Prefetch

#: Commands that wait at most. They leave as fast as the worker reads them, so that only a stuck one's outbox fills up.
CAPACITY = 64


class Outbox:
    """Hands commands out in the order in which they came. ``put`` calls ``filled`` after each that it takes."""

    def __init__(self, *, filled: Callable[[], None], capacity: int = CAPACITY) -> None:
        self._filled = filled
        self._capacity = capacity
        self._waiting: dict[tuple[type[Command], str], Command] = {}

    def put(self, command: Command) -> None:
        """Takes a command in; of those of one kind about one adapter only the newest is kept.

        A full outbox drops its oldest Prefetch, which is a hint, or without any its oldest Evict; never a Drain.
        """
        about = _about(command)
        self._waiting.pop(about, None)
        self._waiting[about] = command
        if len(self._waiting) > self._capacity:
            del self._waiting[self._least_needed()]
        self._filled()

    def take(self) -> Command | None:
        """The next one, which waits no longer; None: there is none."""
        oldest = next(iter(self._waiting), None)
        return self._waiting.pop(oldest) if oldest else None

    def _least_needed(self) -> tuple[type[Command], str]:
        for kind in (Prefetch, Evict):
            for about in self._waiting:
                if about[0] is kind:
                    return about
        raise AssertionError("all other kinds wait once at most, and fill no outbox")


def _about(command: Command) -> tuple[type[Command], str]:
    match command:
        case Prefetch(_, digest) | Evict(digest):
            return type(command), digest
        case Drain():
            return Drain, ""
    return type(command), ""
