"""What the router needs from the registry and from a GPU worker. Knows neither channels nor messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from looksmith.nouns import AdapterRef, Brand, Resolved
from services.chassis.painting import Pinned, Settled
from services.router.events import WorkerEvent


class Registry(Protocol):
    """What brands and references mean now; ``services.registry.client`` keeps it, and resolutions.py over that one."""

    async def get_brand(self, name: str) -> Brand:
        """Raises NotFound (BRAND_NOT_FOUND), or Unavailable."""

    async def resolve(self, ref: AdapterRef) -> Resolved:
        """Raises NotFound, FailedPrecondition (ADAPTER_YANKED), or Unavailable."""


class WorkerCall(Protocol):
    """One request at a worker: iterate it for its messages, one at a time, none read ahead.

    Iterating raises LooksmithError: what the worker answered, or WorkerLost.
    """

    def __aiter__(self) -> AsyncIterator[WorkerEvent]: ...

    def cancel(self) -> None:
        """Makes the worker stop; iterating then raises asyncio.CancelledError. Does nothing to a call that ended."""


class WorkerConnection(Protocol):
    """The way to one worker, open while its session is."""

    def generate(
        self, settled: Settled, pinned: Pinned, *, timeout_s: float, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[WorkerCall]:
        """Opens a call and leaves it on exit, cancelled if it still runs."""

    async def retire(self) -> None:
        """Closes once the last running call has been left; there will be no new ones."""
