"""Remembers what each request id stands for, so that a retry is told from another request.

Knows ids and contents of the last ten minutes; knows nothing of workers or calls.

A request claims its id once a worker has accepted it, and for ten minutes from its last use, whatever becomes of later
tries. A try that ends before that, refused (PROMPT_TOO_LONG, NO_WORKER), failed or left by its caller, gives the id
back: it may then stand for other content. While a try is under way its id is its own, accepted or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from looksmith.nouns import AdapterUse, Resolved
from services.chassis.painting import Settled
from services.router.errors import RequestIdReused

REMEMBERED_S = 600.0
#: 10 minutes of 16 requests a second; an entry holds a prompt and weighs about 2 KB.
CAPACITY = 10_000


def nothing() -> None:
    pass


@dataclass(eq=False)
class Try:
    """One run of a request.

    ``stop`` is how whatever runs for it now is ended; ``accepted``: a worker took this try, or one before it.
    """

    superseded: bool = False
    accepted: bool = False
    stop: Callable[[], None] = nothing

    def supersede(self) -> None:
        self.superseded = True
        self.stop()


@dataclass(frozen=True)
class Remembered:
    """What an id stands for since ``seen_at``, and its newest try."""

    content: str
    settled: Settled
    resolved: Mapping[AdapterUse, Resolved]
    seen_at: float
    newest: Try

    def resolution(self, use: AdapterUse) -> Resolved | None:
        """What ``use`` meant then: as it was spelled, or by the version or digest that it turned out to be."""
        for then, resolved in self.resolved.items():
            same = then.adapter == use.adapter
            if same and use.pick in {then.pick, resolved.version.version, resolved.version.digest}:
                return resolved
        return None


class RequestMemory:
    """The ids of the last ``remembered_s`` seconds, at most ``capacity`` of them. ``clock`` is monotonic seconds."""

    def __init__(
        self, *, clock: Callable[[], float], remembered_s: float = REMEMBERED_S, capacity: int = CAPACITY
    ) -> None:
        self._clock = clock
        self._remembered_s = remembered_s
        self._capacity = capacity
        self._by_id: dict[str, Remembered] = {}  # the longest unseen first

    def recall(self, request_id: str) -> Remembered | None:
        remembered = self._by_id.get(request_id)
        if remembered and self._clock() - remembered.seen_at > self._remembered_s:
            return None
        return remembered

    def recent(self) -> Iterator[Settled]:
        """What is remembered, the newest first."""
        now = self._clock()
        for remembered in reversed(self._by_id.values()):
            if now - remembered.seen_at <= self._remembered_s:
                yield remembered.settled

    def begin(self, settled: Settled, resolved: Mapping[AdapterUse, Resolved], content: str) -> tuple[Settled, Try]:
        """Opens a try and supersedes the one before it; what it shall paint is pinned to what the first try settled.

        Raises:
            RequestIdReused: the id stood for other content.
        """
        request, this_try = settled.request, Try()
        before = self.recall(request.request_id)
        if before:
            if before.content != content:
                raise RequestIdReused(request.request_id)
            before.newest.supersede()
            this_try.accepted = before.newest.accepted
            settled, resolved = replace(before.settled, request=request), before.resolved
        now = self._clock()
        self._by_id.pop(request.request_id, None)
        self._by_id[request.request_id] = Remembered(content, settled, resolved, now, this_try)
        self._forget(now)
        return settled, this_try

    def give_back(self, request_id: str, ended: Try) -> None:
        """Frees the id of a try that has ended; does nothing where a worker had accepted it, or a newer try runs."""
        remembered = self._by_id.get(request_id)
        if remembered and remembered.newest is ended and not ended.accepted:
            del self._by_id[request_id]

    def _forget(self, now: float) -> None:
        while self._by_id:
            oldest, remembered = next(iter(self._by_id.items()))
            if len(self._by_id) <= self._capacity and now - remembered.seen_at <= self._remembered_s:
                return
            del self._by_id[oldest]
