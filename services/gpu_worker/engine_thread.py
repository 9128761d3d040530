"""The one thread on which an engine runs: commands go in between its steps, events come out on the event loop.

Knows nothing about jobs or adapters beyond handing them on. Both ways are bounded: commands by the queue's size, events
by the few jobs that an engine runs at once, each of which has a fixed number of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import structlog

from services.gpu_worker.clock import Clock
from services.gpu_worker.crowding import crowding
from services.gpu_worker.engine.protocol import Engine, Event, ImageBlocked, ImageReady
from services.gpu_worker.progress import Progress

log = structlog.get_logger()

T = TypeVar("T")
_MAX_COMMANDS = 4096


class EngineThread:
    """Loads the engine on entry, in its thread; on exit the step under way ends first."""

    def __init__(self, engine: Engine, *, clock: Clock, crowding: Callable[[], float] = crowding) -> None:
        self.engine = engine
        self.progress = Progress(clock=clock, crowding=crowding)
        self._commands: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_COMMANDS)  # None: the end
        self._thread = threading.Thread(target=self._run, name="engine")
        self._loop: asyncio.AbstractEventLoop
        self._on_events: Callable[[Sequence[Event]], None] = lambda _events: None
        self._on_failure: Callable[[Exception], None] = lambda _error: None
        self._loaded = False

    def listen(self, on_events: Callable[[Sequence[Event]], None], on_failure: Callable[[Exception], None]) -> None:
        """Who gets events, and what an engine raised that should not raise; both are called on the event loop."""
        self._on_events, self._on_failure = on_events, on_failure

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self.call(self._load)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def call(self, command: Callable[[], T]) -> T:
        """Runs ``command`` on the thread, between two steps, and returns what it returns."""
        done: asyncio.Future[T] = self._loop.create_future()

        def settle(value: T | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]  # None only where T is

        def run() -> None:
            try:
                value = command()
            except Exception as error:  # noqa: BLE001  # it is raised to the caller
                self._tell(settle, None, error)
            else:
                self._tell(settle, value, None)

        self._commands.put_nowait(run)
        return await done

    def post(self, command: Callable[[], None]) -> None:
        """Runs ``command`` on the thread, after all commands before it, and does not wait."""
        self._commands.put_nowait(command)

    def _run(self) -> None:
        busy = False
        while True:
            try:
                command = self._commands.get(block=not busy)
            except queue.Empty:
                busy = bool(self._unit(self.engine.tick))
                continue
            if command is None:
                self._unit(self.engine.close)
                return
            self._unit(command)
            busy = self._loaded  # it may have given the engine work; commands go before steps

    def _load(self) -> None:
        self.engine.load()
        self._loaded = True

    def _unit(self, work: Callable[[], Sequence[Event] | None]) -> Sequence[Event]:
        """Does a unit of work; the events that it gave."""
        events: Sequence[Event] = ()
        self.progress.begin()
        try:
            events = work() or ()
        except Exception as error:  # the thread must outlive whatever an engine raises
            log.exception("engine.failed")
            self._tell(self._on_failure, error)
        self.progress.end(painted=any(isinstance(event, ImageReady | ImageBlocked) for event in events))
        if events:
            self._tell(self._on_events, events)
        return events

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(function, *args)

    async def _end(self) -> None:
        self._commands.put_nowait(None)
        await asyncio.to_thread(self._thread.join)
