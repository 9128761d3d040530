"""Lets nothing be written to an object store before a probe has found it fit; reads pass at any time.

Knows when to probe and what to say meanwhile. What is tried is conformance's to know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from opentelemetry import metrics

from services.registry.commit_log import Surroundings
from services.registry.conformance import Findings, probe
from services.registry.errors import StoreNotConforming, StoreNotProbed, StoreRefused, StoreUnavailable
from services.registry.object_store import Creation, ObjectStore, StoredObject

log = structlog.get_logger()
meter = metrics.get_meter(__name__)

conforming = meter.create_gauge(
    "looksmith_store_conforming",
    description="1: the object store was found fit to be written to; 0: writes are refused.",
)

#: Seconds that a write waits for the first probe, which takes a second: who publishes to a registry that has just
#: started is not turned away. Well below the deadline of a call on records, 10 s.
FIRST_PROBE_S = 5.0
#: Seconds from a probe that could not be run to the next; as long as a refused caller is told to wait.
AGAIN_S = 2.0


class GatedStore:
    """ObjectStore that refuses every write until `learning` has found the store beneath it to be fit.

    Writes raise, beside what the store does:
        StoreNotProbed: nobody knows yet.
        StoreNotConforming: it is not, and stays shut; a store that was seen to break a rule once is not asked again.
    """

    def __init__(self, inner: ObjectStore, *, around: Surroundings) -> None:
        self._inner, self._around = inner, around
        self._findings: Findings | None = None
        self._not_yet = "the first probe has not ended"
        self._tried = asyncio.Event()

    def breaches(self) -> tuple[str, ...]:
        """The rules that the store was seen to break, each with what it did."""
        return tuple(f"{rule}: {what}" for rule, what in self._findings.as_text().items()) if self._findings else ()

    @asynccontextmanager
    async def learning(self) -> AsyncIterator[Findings]:
        """Probes the store, again and again where it can't be reached, until it is known; on exit, tidies up there."""
        conforming.set(0)
        async with AsyncExitStack() as stack:
            while (findings := await self._probed(stack)) is None:
                await self._around.sleep(AGAIN_S)
            yield findings

    async def _probed(self, stack: AsyncExitStack) -> Findings | None:
        began = self._around.clock()
        try:
            findings = await stack.enter_async_context(
                probe(
                    self._inner,
                    new_id=self._around.new_id,
                    wall_clock=self._around.wall_clock,
                    sleep=self._around.sleep,
                )
            )
        except (StoreUnavailable, StoreRefused) as error:
            self._not_yet = error.message
            log.warning("store.not_probed", error=error.message)
            return None
        except Exception:  # one odd answer must not leave writes refused for good
            self._not_yet = "the probe failed; the server's log tells more"
            log.exception("store.not_probed")
            return None
        else:
            self._findings = findings
        finally:
            self._tried.set()
        seconds, held = round(self._around.clock() - began, 3), [rule.value for rule in findings.held]
        if findings.conforming:
            conforming.set(1)
            log.info("store.conforms", held=held, seconds=seconds)
        else:
            log.error("store.not_conforming", broken=findings.as_text(), held=held, seconds=seconds)
        return findings

    async def create_if_absent(self, key: str, data: bytes) -> Creation:
        await self._pass()
        return await self._inner.create_if_absent(key, data)

    async def put(self, key: str, data: bytes | memoryview) -> None:
        await self._pass()
        await self._inner.put(key, data)

    async def delete(self, key: str) -> None:
        await self._pass()
        await self._inner.delete(key)

    async def get(self, key: str) -> bytes | None:
        return await self._inner.get(key)

    def stream(self, key: str, *, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        return self._inner.stream(key, offset=offset, limit=limit)

    async def size(self, key: str) -> int | None:
        return await self._inner.size(key)

    async def keys(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[str]:
        return await self._inner.keys(prefix, start_after=start_after, limit=limit)

    async def listing(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[StoredObject]:
        return await self._inner.listing(prefix, start_after=start_after, limit=limit)

    async def folders(self, prefix: str) -> list[str]:
        return await self._inner.folders(prefix)

    async def _pass(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PROBE_S):
                await self._tried.wait()
        if self._findings is None:
            raise StoreNotProbed(self._not_yet)
        if not self._findings.conforming:
            raise StoreNotConforming(self._findings.as_text())
