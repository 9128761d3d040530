"""Tries one input on a parser: what became of it, in how much of the processor's time and of memory.

Says what is a finding; knows neither where inputs come from nor where findings go.
"""

from __future__ import annotations

import gc
import hashlib
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.fuzzing.target import Target

#: What an input may take: seconds of the processor, and bytes beyond what the process had before.
DEADLINE_S, MOST_BYTES = 0.2, 64 << 20
#: Seconds of the processor after which an input is not waited for.
GIVEN_UP_S = 2.0
_ENDLESS = "it does not end"
#: Inputs between two looks at how much memory the process has for good.
_LOOK_EVERY = 256
_SELF = Path("/proc/self")
_CHECKOUT = str(Path(__file__).parents[2])


class GivenUp(BaseException):
    """An input has had its time; no parser's ``except Exception`` keeps this."""


@dataclass(frozen=True)
class Finding:
    """An input that did what none may. ``what`` says it in a line and is the same for inputs of one cause."""

    target: str
    what: str
    told: str  # the traceback, or the figures
    data: bytes
    given_up: bool = False  # it was ended, or would not have

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.target} {self.what}".encode()).hexdigest()[:12]


class Trials:
    """Of one target, in this process. ``slowest_s`` and ``largest_bytes`` are those of all inputs so far."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._until_look = 0
        self._before = 0
        self.slowest_s, self.largest_bytes = 0.0, 0

    def run(self, data: bytes) -> Finding | None:
        """Whether the input is a finding. An exception is, unless it is a refusal; so is too much time or memory."""
        if self._until_look == 0:
            self._until_look, self._before = _LOOK_EVERY, _resident_now()
        self._until_look -= 1
        began = time.process_time()
        problem, told = self._problem(data)
        took = time.process_time() - began
        grown = _highest_resident() - self._before
        if not problem and took > DEADLINE_S:
            took = self._again(data)  # once more: the first time may have imported something, or met the collector
            if took > DEADLINE_S:
                problem, told = "it is slow", f"{took:.3f} s of the processor"
        if not problem and grown > MOST_BYTES:
            problem, told = "it takes much memory", f"{grown / 2**20:.0f} MiB beyond what there was"
        if grown > MOST_BYTES:
            self._until_look = 0  # with a new look, one finding hides no other
        else:
            self.largest_bytes = max(self.largest_bytes, grown)
        if not problem:
            self.slowest_s = max(self.slowest_s, took)
            return None
        return Finding(self._target.name, problem, told, data, given_up=problem.startswith(_ENDLESS))

    def _problem(self, data: bytes) -> tuple[str, str]:
        try:
            with _given_up_after(GIVEN_UP_S):
                self._target.parse(data)
        except self._target.refusals:
            return "", ""
        except GivenUp as error:
            return f"{_ENDLESS} at {_where(error)}", "".join(traceback.format_exception(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, is what is looked for
            return f"{type(error).__name__} at {_where(error)}", "".join(traceback.format_exception(error))
        return "", ""

    def _again(self, data: bytes) -> float:
        gc.collect()
        began = time.process_time()
        self._problem(data)
        return time.process_time() - began


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise GivenUp

    before: Any = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _where(error: BaseException) -> str:
    """The innermost line of our own, which names a cause well enough to count each once."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith((f"{_CHECKOUT}/looksmith", f"{_CHECKOUT}/services"))]
    last = (ours or list(frames))[-1]
    return f"{last.filename.removeprefix(f'{_CHECKOUT}/')}:{last.name}"


def _resident_now() -> int:
    """Bytes; from here on the highest figure is counted anew."""
    (_SELF / "clear_refs").write_text("5")
    return int((_SELF / "statm").read_text().split()[1]) * resource.getpagesize()


def _highest_resident() -> int:
    """Bytes. Not getrusage's ru_maxrss, which begins with what the parent had, and is not counted anew."""
    status = (_SELF / "status").read_bytes()
    return int(status[status.index(b"VmHWM:") + 6 :].split(maxsplit=1)[0]) * 1024
