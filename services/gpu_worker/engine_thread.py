"""The one thread on which an engine runs: commands go in between its steps, events come out on the event loop.

Knows nothing about jobs or adapters beyond handing them on. Both ways are bounded: commands by the queue's size, events
by the few jobs that an engine runs at once, each of which has a fixed number of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import structlog

from services.gpu_worker.clock import Clock, seconds
from services.gpu_worker.crowding import crowding
from services.gpu_worker.engine.protocol import Engine, Event, ImageBlocked, ImageReady
from services.gpu_worker.errors import WorkerResetting
from services.gpu_worker.progress import Progress

log = structlog.get_logger()

T = TypeVar("T")
_MAX_COMMANDS = 4096
#: Seconds that an engine gets to end, at least; one that is at a unit of work may take as long as units take there.
_END_S = 2.0
_LOOK_EVERY_S = 0.1


class EngineHangs(Exception):
    """The engine is at a unit of work that does not end, and holds its thread, which nobody can end but it."""


class EngineThread:
    """Loads the engine on entry, in its thread; on exit the step under way ends first."""

    def __init__(self, engine: Engine, *, clock: Clock, crowding: Callable[[], float] = crowding) -> None:
        self._clock, self._crowding = clock, crowding
        self._engine: Engine | None = engine
        self.progress: Progress
        self._commands: queue.Queue[Callable[[], None] | None]  # None: the end
        self._thread: threading.Thread
        self._prepare(engine)
        self._hangs = self._ending = False
        self._loop: asyncio.AbstractEventLoop
        self._on_events: Callable[[Sequence[Event]], None] = lambda _events: None
        self._on_failure: Callable[[Exception], None] = lambda _error: None

    @property
    def engine(self) -> Engine:
        """Raises WorkerResetting: there is none, until ``rebuild`` has ended."""
        if self._engine is None:
            raise WorkerResetting
        return self._engine

    @property
    def rebuilding(self) -> bool:
        return self._ending or self._engine is None

    def listen(self, on_events: Callable[[Sequence[Event]], None], on_failure: Callable[[Exception], None]) -> None:
        """Who gets events, and what an engine raised that should not raise; both are called on the event loop."""
        self._on_events, self._on_failure = on_events, on_failure

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._start(self.engine)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._hangs:
            await self._end()

    async def rebuild(self, make: Callable[[], Engine]) -> None:
        """Ends the engine and its thread, and loads another one, from ``make``, in a thread of its own.

        Nothing of the old one is kept here; memory is free once nobody else keeps it either.

        Raises:
            EngineHangs: it does not end. It is still there, of no more use.
            Exception: what making or loading raised. There is no engine any more.
        """
        self._ending = True
        await self._end(may_hang=True)
        self._engine = None
        gc.collect()  # models are full of cycles, and what they hold is needed at once
        engine = await asyncio.to_thread(make)
        self._prepare(engine)
        self._ending = False
        await self._start(engine)
        self._engine = engine

    async def call(self, command: Callable[[], T]) -> T:
        """Runs ``command`` on the thread, between two steps, and returns what it returns.

        Raises:
            WorkerResetting: the engine is being rebuilt.
        """
        if self.rebuilding:
            raise WorkerResetting
        return await self._called(command)

    async def _called(self, command: Callable[[], T]) -> T:
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
        """Runs ``command`` on the thread, after all commands before it, and does not wait. Not while it is rebuilt."""
        if not self.rebuilding:
            self._commands.put_nowait(command)

    def _prepare(self, engine: Engine) -> None:
        """A thread of its own for each engine: it alone keeps that alive from here, and it knows when it stood."""
        commands: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_COMMANDS)
        self.progress, self._commands = Progress(clock=self._clock, crowding=self._crowding), commands
        self._thread = threading.Thread(target=self._run, args=(engine, commands), name="engine")

    async def _start(self, engine: Engine) -> None:
        self._thread.start()
        try:
            await self._called(engine.load)
        except BaseException:
            await self._end()
            raise

    def _run(self, engine: Engine, commands: queue.Queue[Callable[[], None] | None]) -> None:
        busy = loaded = False  # the first command loads it
        while True:
            try:
                command = commands.get(block=not busy)
            except queue.Empty:
                busy = bool(self._unit(engine.tick))
                continue
            if command is None:
                self._unit(engine.close)
                return
            self._unit(command)
            busy, loaded = loaded, True  # it may have given the engine work; commands go before steps

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

    async def _end(self, *, may_hang: bool = False) -> None:
        """Raises: EngineHangs, if that may be."""
        self._commands.put_nowait(None)
        began = self._clock()
        while may_hang and self._thread.is_alive():
            if self.progress.stalled_s() and seconds(began, self._clock()) > _END_S:
                self._hangs = True
                raise EngineHangs
            await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.to_thread(self._thread.join)
