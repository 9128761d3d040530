"""From a broken stream to the next worker, by spans."""

from __future__ import annotations

from typing import Any

from benchmarks.redispatches import in_trace


def attempt(identity: str, number: int, start: int, end: int, outcome: str) -> dict[str, Any]:
    tags = [{"key": "looksmith.attempt", "value": number}, {"key": "looksmith.outcome", "value": outcome}]
    return span("attempt", identity, start, end, tags=tags)


def arrival(of: str, start: int) -> dict[str, Any]:
    return span("worker.generate", f"at-{of}", start, start + 5_000, parent=of)


def span(name: str, identity: str, start: int, end: int, *, parent: str = "", tags: Any = ()) -> dict[str, Any]:  # noqa: ANN401  # JSON
    references = [{"spanID": parent}] if parent else []
    return {
        "operationName": name,
        "spanID": identity,
        "startTime": start,
        "duration": end - start,
        "tags": tags,
        "references": references,
    }


def test_counts_from_the_end_of_the_attempt_that_failed_to_the_arrival_of_the_next_one() -> None:
    spans = [attempt("b", 2, 22_000, 90_000, "finished"), arrival("b", 25_500), attempt("a", 1, 0, 20_000, "failed")]
    assert in_trace(spans) == [5.5]


def test_portions_that_fail_together_each_have_a_next_attempt_of_their_own() -> None:
    spans = [
        attempt("a", 1, 0, 20_000, "failed"),
        attempt("b", 1, 0, 21_000, "failed"),
        attempt("c", 2, 22_000, 90_000, "finished"),
        attempt("d", 2, 23_000, 90_000, "finished"),
        arrival("c", 24_000),
        arrival("d", 30_000),
    ]
    assert in_trace(spans) == [4.0, 9.0]


def test_an_attempt_that_nobody_took_over_or_that_did_not_fail_counts_for_nothing() -> None:
    assert not in_trace([attempt("a", 1, 0, 20_000, "failed")])
    assert not in_trace([attempt("a", 1, 0, 20_000, "finished"), attempt("b", 2, 21_000, 30_000, "finished")])
