"""What each brand was given by this router: images and GPU-seconds, since its start and by the minute of the last hour.

Counts what it is told; who tells it, and what becomes of bills, is not known here. A restart begins at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.router.errors import UsageNotKept

MINUTE = timedelta(minutes=1)
#: Minutes that can be told apart, the running one among them.
KEPT_MINUTES = 61
#: Brands that are counted by name, in all and in each minute; the registry knows fewer. A total takes about 200 bytes.
BRANDS = 10_000
#: Whoever comes after those, summed up: sums over all brands stay right.
OTHERS = ""


@dataclass
class Amount:
    images: int = 0
    gpu_seconds: float = 0.0


@dataclass(frozen=True)
class BrandUsage:
    """What one brand was given; ``brand`` is empty for those that came after the first BRANDS."""

    brand: str
    images: int
    gpu_seconds: float


class _Ledger(dict[str, Amount]):
    """Amounts by brand, of a bounded number of brands."""

    def add(self, brand: str, images: int, gpu_seconds: float, most: int) -> None:
        amount = self.get(brand) or self.setdefault(brand if len(self) < most else OTHERS, Amount())
        amount.images += images
        amount.gpu_seconds += gpu_seconds


class Usage:
    """``now`` is the wall clock, since bills are about its hours."""

    def __init__(self, *, now: Callable[[], datetime], brands: int = BRANDS) -> None:
        self._now, self._most = now, brands
        self._started = now()
        self._total = _Ledger()
        self._minutes: dict[datetime, _Ledger] = {}  # by their beginning, the oldest first

    def add(self, brand: str, *, images: int = 0, gpu_seconds: float = 0.0) -> None:
        """Counts what a caller was given just now."""
        minute = _minute_of(self._now())
        if minute not in self._minutes:
            self._minutes[minute] = _Ledger()
            for kept in [kept for kept in self._minutes if kept < self._kept_since()]:
                del self._minutes[kept]
        for ledger in (self._total, self._minutes[minute]):
            ledger.add(brand, images, gpu_seconds, self._most)

    def of(self, brand: str = "", *, since: datetime | None = None) -> tuple[BrandUsage, ...]:
        """Usage by brand, of all or of one; the minute in which ``since`` lies counts whole. None: since the start.

        Raises:
            UsageNotKept: ``since`` is before this router's start, or before what it keeps by the minute.
        """
        if since is None:
            return _listed([self._total], brand)
        if since < self._started or _minute_of(since) < self._kept_since():
            raise UsageNotKept(self._started, max(self._started, self._kept_since()))
        first = _minute_of(since)
        return _listed((ledger for minute, ledger in self._minutes.items() if minute >= first), brand)

    def _kept_since(self) -> datetime:
        return _minute_of(self._now()) - (KEPT_MINUTES - 1) * MINUTE


def _minute_of(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def _listed(ledgers: Iterable[_Ledger], only: str) -> tuple[BrandUsage, ...]:
    sums: dict[str, Amount] = {}
    for ledger in ledgers:
        for brand, amount in ledger.items():
            if only in {"", brand}:
                into = sums.setdefault(brand, Amount())
                into.images += amount.images
                into.gpu_seconds += amount.gpu_seconds
    return tuple(BrandUsage(brand, sums[brand].images, sums[brand].gpu_seconds) for brand in sorted(sums))
