"""Workers' sessions: welcome, heartbeats and their answers, and the end by silence, by closing or by replacement.

Drives the fleet; speaks domain objects on both sides, and gRPC on neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import structlog

from looksmith.errors import LooksmithError
from services.router.errors import LeaseExpired, RouterStopping, SessionOutOfOrder
from services.router.fleet import Fleet
from services.router.members import Ack, Command, Heartbeat, Registration, Resync, Welcome
from services.router.outbox import Outbox
from services.router.ports import WorkerConnection


class Sessions:
    """``connect`` makes the way back to a worker; it lives as long as the session."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        connect: Callable[[Registration], WorkerConnection],
        router: str,
        lease_s: float,
        heartbeat_interval_s: float,
    ) -> None:
        self._fleet = fleet
        self._connect = connect
        self._welcome = Welcome(router, lease_s, heartbeat_interval_s)
        self._stopping = False

    def stop(self) -> None:
        """Ends sessions at their next heartbeat, once this router has no work under way; until then failover works."""
        self._stopping = True

    async def join(self, messages: AsyncIterator[Registration | Heartbeat]) -> AsyncGenerator[Command, None]:
        """One session, from registration to its end: answers to heartbeats, and at once what the fleet is told to tell.

        Raises:
            SessionOutOfOrder: the registration is not first, or comes twice.
            LeaseExpired: nothing came for the lease.
            WorkerReplaced: another session joined under the name.
            RouterStopping: this router is going away.
        """
        registration = await self._next(messages, "")
        if not isinstance(registration, Registration):
            raise SessionOutOfOrder("a session begins with a registration")
        structlog.contextvars.bind_contextvars(worker=registration.name)
        connection = self._connect(registration)
        news = asyncio.Event()  # a message has come, or a command is due
        outbox = Outbox(filled=news.set)
        member = self._fleet.join(registration, connection, tell=outbox.put)
        why = "connection lost"
        try:
            yield self._welcome
            async with aclosing(self._as_they_come(messages, registration.name, outbox, news)) as both:
                async for each in both:
                    if isinstance(each, Registration):
                        raise SessionOutOfOrder("a session has one registration")
                    if not isinstance(each, Heartbeat):
                        yield each
                        continue
                    in_order = self._fleet.heard(member, each)
                    if self._stopping and self._fleet.idle:
                        raise RouterStopping
                    yield Ack(each.sequence)
                    if not in_order:
                        yield Resync()
            why = "closed by the worker"
        except LooksmithError as error:
            why = error.reason
            raise
        finally:
            self._fleet.leave(member, why)
            await connection.retire()

    async def _as_they_come(
        self,
        messages: AsyncIterator[Registration | Heartbeat],
        worker: str,
        outbox: Outbox,
        news: asyncio.Event,
    ) -> AsyncGenerator[Registration | Heartbeat | Command, None]:
        """The worker's messages and the commands that are due to it, until it has said its last."""
        while True:
            reading = asyncio.create_task(self._next(messages, worker))
            reading.add_done_callback(lambda _: news.set())
            try:
                while not reading.done():
                    await news.wait()
                    news.clear()
                    while command := outbox.take():
                        yield command
                message = reading.result()
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            if message is None:
                return
            yield message

    async def _next(
        self, messages: AsyncIterator[Registration | Heartbeat], worker: str
    ) -> Registration | Heartbeat | None:
        """The next message, or None once the worker has said its last."""
        try:
            async with asyncio.timeout(self._welcome.lease_s):
                return await anext(messages, None)
        except TimeoutError:
            raise LeaseExpired(worker, self._welcome.lease_s) from None
