"""Draws one trace as a waterfall. Reads it from anything that answers Jaeger's query API, as the local stack does."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

#: Characters that are left to the bars whatever the notes beside them need.
LEAST_BAR = 16
#: Characters between a bar and its notes: the duration.
_TIME = len("  12345.6 ms")


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


def complete(spans: Sequence[Span], names: Collection[str]) -> bool:
    """Whether nothing is on its way: every span of ``names`` is there, and only the root's parent is not."""
    known = {span.id for span in spans}
    without_parent = [span for span in spans if span.parent not in known]
    return len(without_parent) == 1 and {span.name for span in spans}.issuperset(names)


async def fetch_trace(endpoint: str, trace_id: str, *, names: Collection[str], patience_s: float = 8.0) -> list[Span]:
    """The trace, once complete with spans of these names: each server sends its own in batches, which takes a moment.

    One that stays incomplete is returned as it is when patience ends.
    """

    def ask() -> list[Span]:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/traces/{trace_id}", timeout=2) as answer:  # noqa: S310  # http(s) endpoint of the user's own
                return spans_from_jaeger(json.load(answer))
        except (urllib.error.URLError, TimeoutError):
            return []

    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        spans = await asyncio.to_thread(ask)
        if complete(spans, names) or asyncio.get_running_loop().time() > deadline:
            return spans
        await asyncio.sleep(0.2)


def waterfall(spans: Sequence[Span], *, width: int) -> Text:
    """The tree of spans: name, bar on a common time axis, duration, notes; no line is longer than ``width``."""
    text = Text()
    if not spans:
        return text
    tree = list(_in_order(spans))
    labels = ["  " * depth + span.name for depth, span in tree]
    label_width = min(max(map(len, labels)), width // 2)
    room = width - label_width - 1 - _TIME
    notes = [_fitting(_notes(span), max(0, room - LEAST_BAR)) for _, span in tree]
    bar = max(1, room - max(map(len, notes)))
    begin, end = min(s.start_us for s in spans), max(s.end_us for s in spans)
    scale = bar / max(1, end - begin)
    for (depth, span), label, note in zip(tree, labels, notes, strict=True):
        left = min(round((span.start_us - begin) * scale), bar - 1)
        right = max(left + 1, round((span.end_us - begin) * scale))
        short = label if len(label) <= label_width else label[: label_width - 1] + "…"
        text.append(f"{short:<{label_width}} ")
        text.append(" " * left)
        text.append("█" * (right - left), style="cyan" if depth else "blue")
        text.append(" " * (bar - right) + f"{span.duration_us / 1000:9.1f} ms")
        text.append(note + "\n", style="dim")
    return text


def _in_order(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Every span with its depth, parents before children, siblings by their start."""
    ids = {span.id for span in spans}

    def below(span: Span, depth: int) -> Iterator[tuple[int, Span]]:
        yield depth, span
        for child in sorted((s for s in spans if s.parent == span.id), key=lambda s: s.start_us):
            yield from below(child, depth + 1)

    for root in sorted((s for s in spans if s.parent not in ids), key=lambda s: s.start_us):
        yield from below(root, 0)


def _notes(span: Span) -> Iterator[str]:
    """What is worth a place beside a bar, the most useful first."""
    told = {key.removeprefix("looksmith."): value for key, value in span.attributes.items()}
    if worker := told.get("worker"):
        yield f"{worker}"
    if (tier := told.get("tier")) and tier != "none":
        yield f"tier {tier}"
    if steps := told.get("steps"):
        yield f"{steps} steps"
    for key in ("visible", "hidden"):
        if isinstance(seconds := told.get(f"{key}_s"), int | float):
            yield f"{key} {1000 * seconds:.1f} ms"
    if (outcome := told.get("outcome")) and outcome != "finished":
        yield f"{outcome}"


def _fitting(notes: Iterable[str], room: int) -> str:
    """As many whole notes as fit into ``room``, each with what parts it from the one before."""
    line = ""
    for note in notes:
        longer = f"{line}, {note}" if line else f"  {note}"
        if len(longer) > room:
            break
        line = longer
    return line
