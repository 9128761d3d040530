"""How long a job was nowhere after its worker's stream had broken, by the spans of routers and workers. Pure.

From the end of an attempt that failed, as its router saw it, to the start of the call at the worker that the next
attempt went to: all on one machine, so that clocks agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from looksmith.cli.traces import TraceStore

Span = Mapping[str, Any]  # as Jaeger's API has it: times in microseconds


def redispatches_ms(store: TraceStore, traces: Iterable[str]) -> list[float]:
    """Of all these traces."""
    return [ms for trace in traces for data in store.query(trace)["data"] for ms in in_trace(data["spans"])]


def in_trace(spans: Sequence[Span]) -> list[float]:
    """Milliseconds of each failed attempt that was followed by another one; several portions fail in their order."""
    attempts = sorted(
        (span for span in spans if span["operationName"] == "attempt"), key=lambda span: span["startTime"]
    )
    arrivals = {
        reference["spanID"]: span["startTime"]
        for span in spans
        if span["operationName"] == "worker.generate"
        for reference in span["references"]
    }
    followed: set[str] = set()
    took = []
    for failed in sorted((a for a in attempts if _tag(a, "looksmith.outcome") == "failed"), key=_end):
        number = _tag(failed, "looksmith.attempt")
        after = (
            a
            for a in attempts
            if _tag(a, "looksmith.attempt") == number + 1
            and a["startTime"] >= _end(failed)
            and a["spanID"] not in followed
            and a["spanID"] in arrivals
        )
        if (following := next(after, None)) is not None:
            followed.add(following["spanID"])
            took.append((arrivals[following["spanID"]] - _end(failed)) / 1e3)
    return took


def _end(span: Span) -> int:
    return int(span["startTime"] + span["duration"])


def _tag(span: Span, name: str) -> Any:  # noqa: ANN401  # tags are of any type
    return next((tag["value"] for tag in span["tags"] if tag["key"] == name), None)
