"""A channel that is dialled anew once there are other credentials: certificates end sooner than processes do.

Knows nothing of where credentials come from, or of what is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partialmethod
from typing import Any, Self

import grpc

Dial = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]

#: Seconds that calls of the old connection may go on; a watch is opened again by whoever keeps it.
LEFT_ALONE_S = 60.0


class RedialledChannel(grpc.aio.Channel):
    """Asks for ``credentials`` before each call, and dials when they are not the same object as before."""

    def __init__(self, credentials: Callable[[], grpc.ChannelCredentials], dial: Dial) -> None:
        self._credentials, self._dial = credentials, dial
        self._dialled_with = credentials()
        self._channel = dial(self._dialled_with)
        self._leaving: set[asyncio.Task[None]] = set()

    def newest(self) -> grpc.aio.Channel:
        """The one that the next call goes through."""
        if (found := self._credentials()) is not self._dialled_with:
            leaving = asyncio.ensure_future(self._channel.close(LEFT_ALONE_S))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            self._dialled_with, self._channel = found, self._dial(found)
        return self._channel

    def _calls(self, kind: str, *how: Any, **named: Any) -> Any:  # noqa: ANN401  # as grpc's own four
        def call(*given: Any, **options: Any) -> Any:  # noqa: ANN401  # likewise
            return getattr(self.newest(), kind)(*how, **named)(*given, **options)

        return call

    unary_unary = partialmethod(_calls, "unary_unary")
    unary_stream = partialmethod(_calls, "unary_stream")
    stream_unary = partialmethod(_calls, "stream_unary")
    stream_stream = partialmethod(_calls, "stream_stream")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002  # grpc's
        return self.newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.newest().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.newest().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
