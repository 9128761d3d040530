"""Draws one trace as a waterfall. Reads it from anything that answers Jaeger's query API, as the local stack does."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

#: Attributes worth a place beside a bar, and how they read.
_SHOWN = {"worker": "", "tier": "tier ", "steps": "steps ", "visible_ms": "visible ms ", "hidden_ms": "hidden ms "}
BAR = 44


@dataclass(frozen=True)
class Span:
    """One span; times in microseconds since the epoch."""

    id: str
    parent: str
    name: str
    start_us: int
    duration_us: int
    attributes: Mapping[str, object]

    @property
    def end_us(self) -> int:
        return self.start_us + self.duration_us


def spans_from_jaeger(document: Mapping[str, object]) -> list[Span]:
    """Spans of the first trace of an answer of ``/api/traces/ID``."""
    traces = document.get("data")
    if not isinstance(traces, list) or not traces:
        return []
    return [
        Span(
            id=span["spanID"],
            parent=next((ref["spanID"] for ref in span.get("references", ()) if ref["refType"] == "CHILD_OF"), ""),
            name=span["operationName"],
            start_us=span["startTime"],
            duration_us=span["duration"],
            attributes={tag["key"]: tag["value"] for tag in span.get("tags", ())},
        )
        for span in traces[0]["spans"]
    ]


async def fetch_trace(endpoint: str, trace_id: str, *, root: str, patience_s: float = 8.0) -> list[Span]:
    """The trace once the span named ``root`` has arrived: exporters send in batches, so it takes a moment."""

    def ask() -> list[Span]:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/traces/{trace_id}", timeout=2) as answer:  # noqa: S310  # http(s) endpoint of the user's own
                return spans_from_jaeger(json.load(answer))
        except (urllib.error.URLError, TimeoutError):
            return []

    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        spans = await asyncio.to_thread(ask)
        names = {span.name for span in spans}
        if root in names or asyncio.get_running_loop().time() > deadline:
            return spans
        await asyncio.sleep(0.2)


def waterfall(spans: Sequence[Span]) -> Text:
    """The tree of spans, each with its bar on a common time axis and its duration."""
    text = Text()
    if not spans:
        return text
    begin, end = min(s.start_us for s in spans), max(s.end_us for s in spans)
    scale = BAR / max(1, end - begin)
    ids = {span.id for span in spans}

    def show(span: Span, depth: int) -> None:
        left = round((span.start_us - begin) * scale)
        width = max(1, round(span.duration_us * scale))
        label = "  " * depth + span.name
        notes = [f"{word}{span.attributes[key]}" for key, word in _SHOWN.items() if key in span.attributes]
        text.append(f"{label:<34}")
        text.append(" " * min(left, BAR - 1))
        text.append("█" * min(width, BAR - min(left, BAR - 1)), style="cyan" if depth else "blue")
        text.append(" " * max(0, BAR - min(left, BAR - 1) - width))
        text.append(f" {span.duration_us / 1000:9.1f} ms")
        text.append("  " + ", ".join(map(str, notes)) + "\n", style="dim")
        for child in sorted((s for s in spans if s.parent == span.id), key=lambda s: s.start_us):
            show(child, depth + 1)

    for root in sorted((s for s in spans if s.parent not in ids), key=lambda s: s.start_us):
        show(root, 0)
    return text
