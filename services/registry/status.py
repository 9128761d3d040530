"""How a replica and its store do at this moment: one small object is written, read and deleted, and the time taken.

Changes nothing that counts. Whether a store keeps the rules is conformance's to find out, and the gate's to remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from looksmith.errors import LooksmithError
from services.registry import layout
from services.registry.commit_log import Surroundings
from services.registry.object_store import ObjectStore

log = structlog.get_logger()

#: Seconds that the store gets for one small write, its reading and its deletion; it takes some 10 ms.
PATIENCE_S = 8.0
#: Seconds from which it is worth a line in the log: who publishes or paints a cold adapter waits for it several times.
SLOW_S = 0.5


@dataclass(frozen=True)
class Status:
    """``problem``: what the store did instead of taking a write; ``breaches``: rules that it was seen to break."""

    name: str
    time: datetime
    store: str
    problem: str
    store_s: float
    breaches: tuple[str, ...]


class StatusTeller:
    """``name`` is the store's, for people. ``breaches`` gives what is known of rules that it broke."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        name: str,
        around: Surroundings,
        breaches: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._store, self._name, self._around, self._breaches = store, name, around, breaches

    async def status(self) -> Status:
        around = self._around
        began = around.clock()
        problem = await self._problem()
        store_s = around.clock() - began
        if problem:
            log.error("store.fails", store=self._name, problem=problem, seconds=round(store_s, 3))
        elif store_s > SLOW_S:
            log.warning("store.slow", store=self._name, seconds=round(store_s, 3))
        return Status(around.writer, around.wall_clock(), self._name, problem, store_s, tuple(self._breaches()))

    async def _problem(self) -> str:
        key = layout.probe(self._around.wall_clock(), self._around.new_id()) + "status"
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._store.put(key, key.encode())
                found = await self._store.get(key)
                await self._store.delete(key)
        except TimeoutError:
            return f"it took more than {PATIENCE_S:g} s to write, read and delete a small object"
        except LooksmithError as error:
            return error.message
        return "" if found == key.encode() else "it gave back other bytes than had just been written"
