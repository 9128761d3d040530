"""What each router has sent here: its latest request, and its work that is not done. Knows nothing about jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

#: Routers without work here that are remembered; whoever asks may call itself anything.
IDLE_KEPT = 64


@dataclass(frozen=True)
class Booked:
    """What one router has under way here."""

    router: str
    gpu_seconds: float
    last_request_id: str


class RouterBooks:
    def __init__(self) -> None:
        self._last_request: OrderedDict[str, str] = OrderedDict()  # by router; whoever sent one last comes last

    def sent(self, router: str, request_id: str, *, at_work: Collection[str]) -> None:
        """Notes a request, and forgets who sent none for longest, but for those ``at_work``: they have jobs here."""
        self._last_request[router] = request_id
        self._last_request.move_to_end(router)
        if len(self._last_request) > IDLE_KEPT:
            idle = [name for name in self._last_request if name not in at_work]
            for name in idle[: max(0, len(idle) - IDLE_KEPT)]:
                del self._last_request[name]

    def booked(self, seconds_of: Mapping[str, float]) -> tuple[Booked, ...]:
        """Every router that is remembered; ``seconds_of``: GPU-seconds under way, by router."""
        return tuple(
            Booked(router, seconds_of.get(router, 0.0), request) for router, request in self._last_request.items()
        )
