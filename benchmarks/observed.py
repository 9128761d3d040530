"""Runs a service as it is, and tells on SIGUSR2 what only its own process can count: tasks, waiting spans, objects.

python -m benchmarks.observed services.registry. Writes into the file that OBSERVED_FILE names, whole or not at all.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from opentelemetry import trace

FILE = "OBSERVED_FILE"
#: Kinds of objects that are counted: what a service holds for as long as something is under way.
_COUNTED = {
    f"services.{n}" for n in ("gpu_worker.lease.Lease", "registry.uploads.Destination", "router.bookings.Booking")
}
_ASK_EVERY_S, _ANSWERS_WITHIN_S = 0.02, 10.0


@dataclass(frozen=True)
class Observation:
    """What a process has at one moment. ``spans``: that wait to be exported."""

    tasks: int
    spans: int
    by_coroutine: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)


def main() -> None:
    module = sys.argv[1]
    signal.signal(signal.SIGUSR2, _tell)
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


async def observe(pid: int, file: Path) -> Observation:
    """Asks a process that was started with ``file``. Raises: TimeoutError, ProcessLookupError."""
    _taken(file)
    os.kill(pid, signal.SIGUSR2)
    async with asyncio.timeout(_ANSWERS_WITHIN_S):
        while (answer := _taken(file)) is None:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(_ASK_EVERY_S)
    return Observation(**json.loads(answer))


def _taken(file: Path) -> str | None:
    """What is in it, which nobody then finds again."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    file.unlink()
    return text


def _tell(_number: int, _frame: FrameType | None) -> None:
    """In the middle of whatever runs: looks, and changes nothing."""
    try:
        names = Counter(_name(task) for task in asyncio.all_tasks())
    except RuntimeError:  # no loop runs yet
        names = Counter()
    found = Observation(names.total(), _spans(), dict(names), _objects())
    file = Path(os.environ[FILE])
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(found)))
    part.rename(file)


def _name(task: asyncio.Task[Any]) -> str:
    coroutine: Any = task.get_coro()
    return str(getattr(coroutine, "__qualname__", type(coroutine).__name__))


def _spans() -> int:
    """In the queues of all exporters; they keep them to themselves, so this looks inside."""
    provider: Any = trace.get_tracer_provider()
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    queues = (getattr(getattr(each, "_batch_processor", each), "_queue", None) for each in processors)
    return sum(len(queue) for queue in queues if queue is not None)


def _objects() -> dict[str, int]:
    kinds = Counter(map(type, gc.get_objects()))
    names = {f"{kind.__module__}.{kind.__qualname__}": count for kind, count in kinds.items()}
    return {name.removeprefix("services."): count for name, count in names.items() if name in _COUNTED}


if __name__ == "__main__":
    main()
