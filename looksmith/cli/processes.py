"""Child processes with a log file each, which end together and leave nothing behind. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from looksmith.cli.terminal import Problem

T = TypeVar("T")

#: Variable by which everything that descends from our children is known, also when its parent is gone.
MARK = "LOOKSMITH_PROCESSES"
#: Lines of its log that a child which died is quoted with, and characters of each.
TAIL_LINES, TAIL_COLUMNS = 5, 300
STOPPING = "stopping; another Ctrl-C kills at once"


class Processes:
    """Use it as an async context manager: when it exits, all children have ended, and all that they had started.

    They get SIGTERM: all at once, but the first one, which the others may depend on, when they have ended. Whoever is
    left after ``stop_within_s``, or when the exit is cancelled (as a second Ctrl-C does), is killed.

    Args:
        logs: folder that gets a NAME.log for each.
        cwd: where they start.
        environ: what they inherit.
        stop_within_s: for all of them together, in seconds.
        on_phase: told of a child that ended, and when stopping begins.
    """

    def __init__(
        self,
        logs: Path,
        *,
        cwd: Path,
        environ: Mapping[str, str],
        stop_within_s: float,
        on_phase: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._logs, self._cwd = logs, cwd
        self._mark = uuid.uuid4().hex
        self._environ = {**environ, MARK: self._mark}
        self._stop_within_s = stop_within_s
        self._on_phase = on_phase
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._culprit = ""

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            async with asyncio.timeout(self._stop_within_s):
                culprit = self._culprit
                self._on_phase(f"{culprit} ended: stopping the rest" if culprit else STOPPING)
                processes = list(self._running.values())
                for together in (processes[1:], processes[:1]):
                    for process in together:
                        with suppress(ProcessLookupError):
                            process.terminate()
                    for process in together:
                        await process.wait()
        except TimeoutError:
            pass
        finally:
            self._kill_what_is_left()
            for process in self._running.values():
                await process.wait()

    async def start(self, name: str, argv: Sequence[str], **settings: object) -> None:
        """Starts a child in a session of its own, so that Ctrl-C reaches it through us, in order."""
        environ = self._environ | {key: str(value) for key, value in settings.items()}
        with self.log(name).open("wb") as stream:
            self._running[name] = await asyncio.create_subprocess_exec(
                *argv, cwd=self._cwd, env=environ, stdout=stream, stderr=stream, start_new_session=True
            )

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    async def until(self, name: str, ready: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
        """Asks ``ready`` ten times a second.

        Raises:
            Problem: ``name`` is not ready in time, or any child has ended.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while not await ready():
            for other, process in self._running.items():
                if process.returncode is not None:
                    raise self._death(other)
            if asyncio.get_running_loop().time() > deadline:
                raise Problem(self._quoted(name, f"is not ready after {within_s:.0f} s"))
            await asyncio.sleep(0.1)

    async def during(self, work: Coroutine[Any, Any, T], *, alike: Collection[str] = ()) -> T:
        """What ``work`` returns.

        Args:
            work: cancelled where a child that is needed ends before it does.
            alike: children of which one is enough; of another's end ``on_phase`` is told, and the rest goes on.

        Raises:
            Problem: a child that is needed ended.
        """
        working = asyncio.create_task(work)
        ends = {asyncio.create_task(process.wait()): name for name, process in self._running.items()}
        try:
            while True:
                await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                for end in [end for end in ends if end.done()]:
                    name = ends.pop(end)
                    if name not in alike or not set(alike) & set(ends.values()):
                        raise self._death(name)
                    self._on_phase(self._quoted(name, f"{self._how_ended(name)}; the rest goes on"))
        finally:
            for task in (working, *ends):
                task.cancel()
            await asyncio.gather(working, *ends, return_exceptions=True)

    def _death(self, name: str) -> Problem:
        self._culprit = name
        return Problem(self._quoted(name, f"{self._how_ended(name)}, and everything else was stopped"))

    def _how_ended(self, name: str) -> str:
        code = self._running[name].returncode or 0
        return f"ended with code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def _quoted(self, name: str, what: str) -> str:
        said = [line[:TAIL_COLUMNS] for line in self.log(name).read_text(errors="replace").splitlines() if line.strip()]
        return "\n  ".join([f"{name} {what}. The end of {self.log(name)}:", *said[-TAIL_LINES:]])

    def _kill_what_is_left(self) -> None:
        """Awaits nothing, so that no signal can interrupt it. Repeats: what is being killed may just have forked."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
        for _ in range(10):
            left = _marked(self._mark)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                return


def _marked(mark: str) -> list[int]:
    """Processes whose environment holds ``mark``; none where the system has no /proc, which only Linux has."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is somebody else's
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
    return found
