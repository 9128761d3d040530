"""A worker's session with one router: registers, reports, does as it is told, and joins anew when it ends.

What is reported is read in heartbeats.py; speaks services.router.client, never protobuf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import structlog

from looksmith.errors import LooksmithError
from services.gpu_worker.heartbeats import Heartbeats
from services.gpu_worker.machine import Machine
from services.gpu_worker.painter import Painter
from services.gpu_worker.reset import EngineReset
from services.gpu_worker.tiers import AdapterTiers
from services.router.client import (
    Ack,
    Command,
    Drain,
    Evict,
    FleetClient,
    FleetSession,
    Prefetch,
    Registration,
    Reset,
    Resync,
    Welcome,
)

log = structlog.get_logger()

FIRST_RETRY_S, LAST_RETRY_S = 0.2, 5.0
#: Several changes at once, as when an adapter passes through the tiers, make one heartbeat.
SETTLING_S = 0.02


class RouterSession:
    """Runs until it is cancelled."""

    def __init__(
        self,
        *,
        address: str,
        registration: Registration,
        painter: Painter,
        tiers: AdapterTiers,
        connect: Callable[[str], AbstractAsyncContextManager[FleetClient]],
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        machine: Machine | None = None,
        reset: EngineReset | None = None,
    ) -> None:
        self._address, self._registration, self._connect = address, registration, connect
        self._painter, self._tiers, self._machine, self._reset = painter, tiers, machine, reset
        self._jitter, self._sleep = jitter, sleep
        self._news = asyncio.Event()  # something to report before the next heartbeat is due
        self._evictions: set[asyncio.Task[bool]] = set()
        self._welcomed = False
        self._heartbeats = self._new_heartbeats()  # of this session
        self._heard, self._hears = 0, asyncio.Event()  # the last of them that the router has confirmed
        tiers.watch(self._news.set)

    async def run(self) -> None:
        """One session after the other; the wait between two doubles until a router answers, and is drawn by lot."""
        failures = 0
        while True:
            self._welcomed = False
            try:
                async with self._connect(self._address) as fleet, fleet.join(self._registration) as session:
                    await self._follow(session)
                reason, told = "closed by the router", ""
            except LooksmithError as error:
                reason, told = error.reason, error.message
            failures = 0 if self._welcomed else failures + 1
            delay = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures, 10)) * (0.5 + self._jitter() / 2)
            log.warning("session.ended", router=self._address, reason=reason, error=told, retry_s=round(delay, 2))
            await self._sleep(delay)

    async def report_now(self) -> None:
        """Reports at once, and returns when the router has heard how the worker is now; at once if none listens."""
        self._news.set()
        heartbeats, due = self._heartbeats, self._heartbeats.sequence + 1
        while self._welcomed and self._heartbeats is heartbeats and self._heard < due:
            self._hears.clear()
            await self._hears.wait()

    def rejoin(self, registration: Registration) -> None:
        """Ends the session, and joins anew as what the worker is now."""
        self._registration = registration
        self._news.set()

    async def _follow(self, session: FleetSession) -> None:
        """Obeys commands until the session ends; reports beside that, once the router has said how often."""
        heartbeats = self._heartbeats = self._new_heartbeats()
        self._heard = 0
        self._hears.set()  # who waits for the session before waits in vain
        reporting: asyncio.Task[None] | None = None
        try:
            async for command in session:
                if isinstance(command, Welcome):
                    self._welcomed = True
                    log.info("session.joined", router=command.router, address=self._address)
                    reporting = asyncio.create_task(self._report(session, heartbeats, command.heartbeat_interval_s))
                else:
                    self._obey(command, heartbeats)
        finally:
            if reporting:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)  # how it ended, iteration has told

    def _new_heartbeats(self) -> Heartbeats:
        newest = (lambda: reset.newest) if (reset := self._reset) else (lambda: None)
        return Heartbeats(painter=self._painter, tiers=self._tiers, machine=self._machine, reset=newest)

    async def _report(self, session: FleetSession, heartbeats: Heartbeats, interval_s: float) -> None:
        joined_as = self._registration
        while self._registration is joined_as:
            self._news.clear()
            await session.send(heartbeats.next())
            try:
                async with asyncio.timeout(interval_s):
                    await self._news.wait()
            except TimeoutError:
                continue
            await self._sleep(SETTLING_S)
        await session.leave()

    def _obey(self, command: Command, heartbeats: Heartbeats) -> None:
        match command:
            case Ack(sequence):
                self._heard = sequence
                self._hears.set()
            case Resync():
                heartbeats.resync()
                self._news.set()
            case Prefetch(brand, digest):
                self._tiers.prefetch(brand, digest)
            case Evict(digest):
                eviction = asyncio.create_task(self._tiers.evict(digest))
                self._evictions.add(eviction)
                eviction.add_done_callback(self._evictions.discard)
            case Reset(reason):
                if self._reset:
                    self._reset.begin(reason)
            case Drain(reason):
                log.info("worker.draining", router=self._address, reason=reason)
                self._painter.drain()
                self._news.set()
