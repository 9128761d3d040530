"""Keeps a watch on the registry open, from the last cursor on whenever it is lost, and hands on what it says.

Knows nothing of what the messages mean for jobs or files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import structlog

from looksmith.errors import LooksmithError
from services.registry.client import Message, SnapshotEnd

log = structlog.get_logger()

#: Waits between two tries double from the first to the last, and each is drawn by lot. The last is short, since what
#: was withdrawn meanwhile is painted until the registry is heard again.
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 1.0
#: Three of the registry's heartbeats: who hears nothing for so long has lost it.
SILENCE_S = 15.0
#: For which a worker that starts waits to hear what was withdrawn while it was away; beyond that it paints.
PATIENCE_S = 2.0


class RegistryWatch:
    """``watch`` opens one from a cursor; ``hear`` gets every message, one at a time."""

    def __init__(
        self,
        *,
        watch: Callable[[str], AsyncGenerator[Message, None]],
        hear: Callable[[Message], Awaitable[None]],
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._watch, self._hear, self._jitter, self._sleep = watch, hear, jitter, sleep
        self._silence_s = silence_s
        self._cursor = ""
        self._up_to_date = asyncio.Event()

    @asynccontextmanager
    async def running(self, *, patience_s: float = PATIENCE_S) -> AsyncIterator[None]:
        """Watches from entry to exit; enters once all is known, or after ``patience_s``."""
        task = asyncio.create_task(self.run())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._up_to_date.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """One watch after the other, without end."""
        failures = 0
        while True:
            heard = False
            try:
                async with aclosing(self._watch(self._cursor)) as messages:
                    while (message := await self._next(messages)) is not None:
                        heard = True
                        await self._take(message)
                reason = "closed by the registry"
            except LooksmithError as error:
                reason = f"{error.reason}: {error.message}"
            except TimeoutError:
                reason = "silence"
            except Exception:  # a worker that stopped listening would paint what is withdrawn from now on
                log.exception("registry_watch.failed")
                reason = "failed"
            failures = 0 if heard else failures + 1
            delay = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures, 10)) * (0.5 + self._jitter() / 2)
            if failures <= 1:  # an outage is said once
                log.warning("registry_watch.ended", reason=reason)
            await self._sleep(delay)

    async def _next(self, messages: AsyncGenerator[Message, None]) -> Message | None:
        async with asyncio.timeout(self._silence_s):
            return await anext(messages, None)

    async def _take(self, message: Message) -> None:
        await self._hear(message)
        self._cursor = message.cursor or self._cursor
        if isinstance(message, SnapshotEnd):
            self._up_to_date.set()
