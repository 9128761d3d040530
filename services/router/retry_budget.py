"""How many attempts may be repeated, so that a fleet that fails everything is not asked three times as much.

Counts tokens; who asks another worker, and when, is dispatch's business.
"""

from __future__ import annotations

#: Attempts that may be repeated at once: more than the requests that one lost worker leaves behind.
MOST = 100.0
#: What each request adds: a tenth of all requests may be repeated for as long as one likes.
EARNED = 0.1


class RetryBudget:
    def __init__(self, *, most: float = MOST, earned: float = EARNED) -> None:
        self._most, self._earned, self._tokens = most, earned, most

    def request(self) -> None:
        """A request has come."""
        self._tokens = min(self._most, self._tokens + self._earned)

    def spend(self) -> bool:
        """Whether an attempt may be repeated; if so, it has been paid for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
