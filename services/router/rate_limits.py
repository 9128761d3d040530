"""GPU-seconds a minute that each brand may use. Knows brands by name and what they have used; places nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services.router.errors import BrandRateLimited

#: Brands remembered; who is forgotten begins a full minute anew.
BRANDS = 10_000


@dataclass
class _Account:
    left: float  # GPU-seconds; below 0 after a request that cost more than was left
    at: float


class RateLimits:
    """A token bucket a brand, which holds one minute's GPU-seconds. ``clock`` is monotonic seconds.

    A request is let in while anything is left, and may overdraw: its cost is known for sure only at its end.
    """

    def __init__(self, *, clock: Callable[[], float], brands: int = BRANDS) -> None:
        self._clock, self._brands = clock, brands
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def check(self, brand: str, per_minute: float) -> None:
        """``per_minute`` 0: no limit.

        Raises:
            BrandRateLimited: nothing is left at the moment.
        """
        if per_minute and (left := self._account(brand, per_minute).left) <= 0:
            raise BrandRateLimited(brand, per_minute, -left / per_minute * 60)

    def spend(self, brand: str, per_minute: float, gpu_seconds: float) -> None:
        """Charges a brand, or with a negative amount gives back what was charged too much."""
        if per_minute:
            self._account(brand, per_minute).left -= gpu_seconds

    def _account(self, brand: str, per_minute: float) -> _Account:
        now = self._clock()
        account = self._accounts.setdefault(brand, _Account(per_minute, now))
        self._accounts.move_to_end(brand)
        if len(self._accounts) > self._brands:
            self._accounts.popitem(last=False)
        account.left = min(per_minute, account.left + (now - account.at) / 60 * per_minute)
        account.at = now
        return account
