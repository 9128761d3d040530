"""One job's hold on its adapters, and what bringing them in takes: stage by stage, as times and as spans.

A span is open while its stage runs, so that what the stage calls, such as a download, hangs under it. Knows nothing
about where adapters lie or whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry import context as otel_context
from opentelemetry import trace

from looksmith.errors import LooksmithError
from looksmith.nouns import Tier
from services.gpu_worker.clock import Clock
from services.gpu_worker.engine.protocol import Stage
from services.gpu_worker.swap import StageTime, SwapReport, swap_report

tracer = trace.get_tracer(__name__)


@dataclass(eq=False)
class Lease:
    """``tier`` is where the slowest adapter was found; None: there are none. Spans hang under the one current now."""

    brand: str
    digests: tuple[str, ...]
    tier: Tier | None
    clock: Clock
    span_name: str = "adapter.swap"
    stages: list[StageTime] = field(default_factory=list)
    fetched_bytes: int = 0
    holds_host: bool = False
    holds_device: bool = False
    _parent: otel_context.Context = field(default_factory=otel_context.get_current)
    _span: trace.Span | None = None  # begins with the first stage: an adapter that waits for its turn is not swapped

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Times what runs inside as a stage of this lease's swap."""
        start = self.clock()
        span = tracer.start_span(stage.value, context=self._under(start), start_time=start)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, _reason(error))
            raise
        finally:
            end = self.clock()
            span.end(end)
            self.stages.append(StageTime(stage, start, end))

    def record(self, done: StageTime) -> None:
        """Adds a stage that is over, such as one on another thread."""
        under = self._under(done.start_ns)
        tracer.start_span(done.stage.value, context=under, start_time=done.start_ns).end(done.end_ns)
        self.stages.append(done)

    def bound(self, *, turn_ns: int, bound_ns: int) -> SwapReport:
        """Ends the swap, since the adapters act; sums it up. One with nothing to do is placed at ``bound_ns``."""
        swap = swap_report(
            self.stages, tier=self.tier, turn_ns=turn_ns, bound_ns=bound_ns, fetched_bytes=self.fetched_bytes
        )
        self._under(swap.start_ns)
        if self._span:
            self._span.set_attributes(
                {
                    "looksmith.tier": swap.tier.name.lower() if swap.tier else "none",
                    "looksmith.bytes": swap.fetched_bytes,
                    "looksmith.visible_s": swap.visible_s,
                    "looksmith.hidden_s": swap.hidden_s,
                }
            )
            self._span.end(swap.end_ns)
        return swap

    def close(self, error: str = "") -> None:
        """Ends the span of a swap that does not come to ``bound``; changes nothing after that."""
        if self._span and self._span.is_recording():
            if error:
                self._span.set_status(trace.StatusCode.ERROR, error)
            self._span.end(self.clock())

    def _under(self, start_ns: int) -> otel_context.Context:
        """Where the spans of stages hang: under the swap's, which begins at ``start_ns`` if it has not begun."""
        if self._span is None:
            self._span = tracer.start_span(self.span_name, context=self._parent, start_time=start_ns)
        return trace.set_span_in_context(self._span, self._parent)


def _reason(error: BaseException) -> str:
    match error:
        case LooksmithError(reason=reason):
            return reason
        case asyncio.CancelledError():
            return "CANCELLED"
    return type(error).__name__
