"""A proxy before an object store that kills who asks through it, at one request: before the store did it, or after.

Numbers requests and notes them; what they are for, and who is killed, is known elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.store_proxy import LONGEST_HEAD, answer_of, next_request


class Side(StrEnum):
    """Of a request's effect."""

    BEFORE = "before"
    AFTER = "after"


@dataclass
class DeadlyProxy:
    """What is passed on and noted.

    Attributes:
        store_port: where the store listens on loopback.
        ignored: what the keys of requests begin with that are passed on and neither noted nor waited for.
        port: where the proxy listens.
        noted: method and key, or prefix of what is listed, of each request since the last ``note``.
        reached: whether the fatal one of them has come.
        killed: set once it has done what it does.
    """

    store_port: int
    ignored: tuple[str, ...] = ()
    port: int = 0
    noted: list[str] = field(default_factory=list)
    reached: bool = False
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    _heeded: Callable[[str], bool] = lambda _key: True
    _fatal: int = 0
    _side: Side = Side.BEFORE
    _kill: Callable[[], Awaitable[None]] | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _under_way: int = 0
    _changed_at: float = 0.0

    def note(
        self,
        *,
        heeded: Callable[[str], bool] = lambda _key: True,
        fatal: int = 0,
        side: Side = Side.BEFORE,
        kill: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begins to number requests anew, from 1, where their keys are ``heeded``; ``fatal`` is never answered."""
        self.noted, self.reached, self.killed = [], False, asyncio.Event()
        self._heeded, self._fatal, self._side, self._kill = heeded, fatal, side, kill

    async def quiet(self, for_s: float) -> None:
        """Returns once nothing has been asked for, and nothing was under way, for some time."""
        clock = asyncio.get_running_loop().time
        while self._under_way or clock() - self._changed_at < for_s:  # noqa: ASYNC110  # requests end at any time
            await asyncio.sleep(for_s / 5)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LONGEST_HEAD)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if request := await next_request(reader):
                    writer.write(await self._answer(request))
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        name = name_of(request)
        key = name.partition(" ")[2]
        if key.startswith(self.ignored) or not self._heeded(key):
            return await answer_of(self.store_port, request)
        self.noted.append(name)
        fatal = self._kill if len(self.noted) == self._fatal else None
        self._count(1)
        try:
            if not fatal:
                return await answer_of(self.store_port, request)
            self.reached = True
            if self._side is Side.AFTER:
                await answer_of(self.store_port, request)
            await fatal()
            self.killed.set()
            return b""
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._under_way += change
        self._changed_at = asyncio.get_running_loop().time()


def name_of(request: bytes) -> str:
    """Method and key of a request on an object, or on the objects that a prefix has: "GET r1/b/"."""
    method, target, _ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    url = urlsplit(target)
    _, _, key = unquote(url.path).lstrip("/").partition("/")
    if not key:
        key = parse_qs(url.query).get("prefix", [""])[0]
    return f"{'LIST' if 'list-type=' in url.query else method} {key}"
