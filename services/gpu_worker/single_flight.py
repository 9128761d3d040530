"""Work that several ask for and that is done once. Knows nothing about what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One task a key; it goes on when whoever asked for it has left, since others may wait for it.

    ``landed`` is called after each.
    """

    def __init__(self, *, landed: Callable[[], None]) -> None:
        self._landed = landed
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """What the task of ``key`` will return or raise; starts it with ``work``, at once, if there is none."""
        task = self._tasks.get(key)
        if task is None:
            self._tasks[key] = task = asyncio.create_task(self._fly(key, work))
            # Seen here, since whoever asked may have left.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return asyncio.shield(task)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fly(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            del self._tasks[key]
            self._landed()
