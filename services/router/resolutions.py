"""A registry that is remembered: what it last said of brands and references answers for it while it is out of reach.

Asks first and remembers second, so that nothing is painted from memory while the registry speaks. Leaves to the
registry what it says when its own store is down, and to admission what is made of any answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import structlog

from looksmith.errors import Cancelled, DeadlineExceeded, FailedPrecondition, LooksmithError, NotFound, Unavailable
from looksmith.nouns import AdapterRef, Brand, Resolved
from services.router.errors import REGISTRY_AGAIN_S, RegistryLost
from services.router.ports import Registry

log = structlog.get_logger()

#: Seconds that a request waits for the registry when memory could answer, or when the registry was lost just now.
PATIENCE_S = 1.0
#: Brands remembered, and references: each adapter by what it was asked as, by number and by digest. 10 000 brands
#: with 2 KB of text and an adapter each take about 40 MB.
BRANDS, REFERENCES = 10_000, 30_000

#: Reasons that the registry never gives itself: it was not reached, or its answer was not awaited.
_SAID_BY_GRPC = {Unavailable.reason, DeadlineExceeded.reason, Cancelled.reason}

T = TypeVar("T")


class RememberingRegistry:
    """Keeps ports.Registry over another registry; while that is lost, answers say since when they are not confirmed.

    A brand's record has no place to say so: a request without any adapter does not tell that its brand was remembered.

    Args:
        registry: who is asked.
        clock: monotonic seconds.
        now: the wall clock, for ``stale_since``.
        patience_s: seconds that a remembered answer may be waited for.
        brands: how many of them are remembered, and how many ``references``; the least recently used go first.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        patience_s: float = PATIENCE_S,
        brands: int = BRANDS,
        references: int = REFERENCES,
    ) -> None:
        self._registry, self._clock, self._now = registry, clock, now
        self._patience_s, self._most_brands, self._most_references = patience_s, brands, references
        self._brands: OrderedDict[str, Brand] = OrderedDict()
        # By the reference's text, each as it will be told once it can't be confirmed. What an alias or digest meant
        # counts only while the version itself is remembered, so that forgetting that one forgets all its names.
        self._resolved: OrderedDict[str, Resolved] = OrderedDict()
        self._lost = False
        self._ask_again_at = float("-inf")

    async def get_brand(self, name: str) -> Brand:
        """Raises NotFound (BRAND_NOT_FOUND), RegistryLost, or what else the registry says."""
        try:
            brand = await self._ask(lambda: self._registry.get_brand(name), remembered=name in self._brands)
        except Unavailable:
            if name not in self._brands:
                raise
            self._brands.move_to_end(name)
            return self._brands[name]
        except NotFound:
            self._forget_brand(name)
            raise
        _keep(self._brands, name, brand, most=self._most_brands)
        return brand

    async def resolve(self, ref: AdapterRef) -> Resolved:
        """Raises NotFound, FailedPrecondition (ADAPTER_YANKED), RegistryLost, or what else the registry says."""
        asked_at = self._now()
        try:
            answer = await self._ask(lambda: self._registry.resolve(ref), remembered=self._recall(ref) is not None)
        except Unavailable:
            if remembered := self._recall(ref):
                return remembered
            raise
        except (NotFound, FailedPrecondition) as refusal:
            self._forget(ref, refusal)
            raise
        if (before := self._recall(ref)) and before.version == answer.version:
            answer = replace(answer, version=before.version)  # one copy, however many requests are remembered with it
        self._remember(ref, replace(answer, stale_since=answer.stale_since or asked_at))
        return answer

    async def _ask(self, question: Callable[[], Awaitable[T]], *, remembered: bool) -> T:
        """The registry's answer, as soon as that matters.

        Raises:
            RegistryLost: it can't be reached, did not answer in time, or just failed to and ``remembered`` will do.
            LooksmithError: what it said.
        """
        if remembered and self._clock() < self._ask_again_at:
            raise RegistryLost("it did not answer a moment ago")
        if self._lost:  # one asks; who comes meanwhile and can do without the answer need not wait with it
            self._ask_again_at = self._clock() + REGISTRY_AGAIN_S
        try:
            async with asyncio.timeout(self._patience_s if remembered or self._lost else None):
                answer = await question()
        except TimeoutError:
            raise self._note_lost(f"no answer within {self._patience_s:g} s") from None
        except (Unavailable, DeadlineExceeded, Cancelled) as error:
            if error.reason in _SAID_BY_GRPC:
                raise self._note_lost(error.message) from None
            self._note_found()
            raise
        except LooksmithError:
            self._note_found()
            raise
        self._note_found()
        return answer

    def _note_lost(self, why: str) -> RegistryLost:
        self._ask_again_at = self._clock() + REGISTRY_AGAIN_S
        if not self._lost:
            self._lost = True
            log.warning("registry.lost", why=why, brands=len(self._brands), references=len(self._resolved))
        return RegistryLost(why)

    def _note_found(self) -> None:
        self._ask_again_at = float("-inf")
        if self._lost:
            self._lost = False
            log.info("registry.found")

    def _remember(self, ref: AdapterRef, answer: Resolved) -> None:
        """By its number too, as a caller names it who resumes here what another router began; and by digest."""
        version = answer.version
        for pick in dict.fromkeys((ref.pick, version.digest, version.version)):
            _keep(self._resolved, str(replace(ref, pick=pick)), answer, most=self._most_references)

    def _recall(self, ref: AdapterRef) -> Resolved | None:
        answer = self._resolved.get(str(ref))
        if answer is None:
            return None
        version = str(replace(ref, pick=answer.version.version))
        if version not in self._resolved:
            return None
        for name in (str(ref), version):
            self._resolved.move_to_end(name)
        return answer

    def _forget(self, ref: AdapterRef, refusal: LooksmithError) -> None:
        """Forgets what a reference meant, and the version that the refusal names."""
        if before := self._resolved.pop(str(ref), None):
            self._resolved.pop(str(replace(ref, pick=before.version.version)), None)
        self._resolved.pop(refusal.metadata.get("adapter", ""), None)
        if refusal.reason == "BRAND_NOT_FOUND":
            self._forget_brand(ref.brand)

    def _forget_brand(self, name: str) -> None:
        """Forgets a record and what references to the brand meant: a name that is used anew has other versions."""
        if self._brands.pop(name, None):
            for ref in [ref for ref in self._resolved if ref.startswith(f"{name}/")]:
                del self._resolved[ref]


def _keep(memory: OrderedDict[str, T], name: str, value: T, *, most: int) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > most:
        memory.popitem(last=False)
