"""One record a request: what it was given, by whom, and how it ended. The newest are kept; the log has a line of each.

What is counted, and when, is said by dispatch.py through a Tally; bills over time are usage.py's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import grpc
import structlog

from looksmith.errors import Internal, LooksmithError
from looksmith.nouns import Tier

log = structlog.get_logger()

#: Some 5 MB: at ten requests a second the last quarter of an hour. The log has the others.
KEPT = 10_000


@dataclass
class Tally:
    """What a request has been given so far. ``tier``: where its first placement found the slowest of its adapters."""

    images: int = 0
    images_blocked: int = 0
    gpu_seconds: float = 0.0
    workers: list[str] = field(default_factory=list)
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """``status`` as gRPC names it; ``reason`` is empty for what went well or was cancelled."""

    ended: datetime
    brand: str
    request_id: str
    status: str
    reason: str
    images: int
    images_blocked: int
    gpu_seconds: float
    workers: tuple[str, ...]
    seconds: float
    tier: Tier | None


class RequestRecords:
    """``now`` is the wall clock, ``clock`` monotonic seconds."""

    def __init__(self, *, now: Callable[[], datetime], clock: Callable[[], float], kept: int = KEPT) -> None:
        self._now, self._clock = now, clock
        self._records: deque[RequestRecord] = deque(maxlen=kept)

    @contextmanager
    def recording(self, brand: str, request_id: str) -> Iterator[Tally]:
        """Records the request that runs inside, however it ends."""
        began, tally = self._clock(), Tally()
        status, reason = grpc.StatusCode.OK, ""
        try:
            yield tally
        except LooksmithError as error:
            status, reason = error.code, error.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            status = grpc.StatusCode.CANCELLED  # by the caller or its deadline
            raise
        except BaseException:
            status, reason = Internal.code, Internal.reason
            raise
        finally:
            record = RequestRecord(
                ended=self._now(),
                brand=brand,
                request_id=request_id,
                status=status.name,
                reason=reason,
                images=tally.images,
                images_blocked=tally.images_blocked,
                gpu_seconds=tally.gpu_seconds,
                workers=tuple(tally.workers),
                seconds=self._clock() - began,
                tier=tally.tier,
            )
            self._records.append(record)
            _log(record)

    def newest(self, count: int) -> list[RequestRecord]:
        """At most ``count``, the newest first."""
        return [record for record, _ in zip(reversed(self._records), range(count), strict=False)]


def _log(record: RequestRecord) -> None:
    """Brand and request id are bound to the call's lines already."""
    log.info(
        "request.ended",
        status=record.status,
        reason=record.reason,
        images=record.images,
        images_blocked=record.images_blocked,
        gpu_seconds=round(record.gpu_seconds, 4),
        workers=record.workers,
        seconds=round(record.seconds, 4),
    )
