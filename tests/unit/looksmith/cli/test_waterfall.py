import io

import pytest
from rich.console import Console

from looksmith.cli.waterfall import Span, complete, waterfall

TRACE = [
    Span("1", "", "looksmith.generate", 0, 1_000_000, {"looksmith.brand": "inkwell"}),
    Span("2", "1", "attempt", 10_000, 900_000, {"looksmith.worker": "worker-1", "looksmith.tier": "store"}),
    Span("3", "2", "worker.generate", 20_000, 880_000, {}),
    Span(
        "4", "3", "adapter.swap", 30_000, 300_000,
        {"looksmith.tier": "store", "looksmith.visible_s": 0.1234, "looksmith.hidden_s": 0.0123},
    ),
    Span("5", "4", "fetch", 30_000, 100_000, {}),
    Span("6", "3", "denoise", 330_000, 500_000, {"looksmith.steps": 4}),
]  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_wraps_and_the_bars_take_the_width_that_is_left(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(waterfall(TRACE, width=width), end="")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [span.name for span in TRACE]
    assert max(map(len, lines)) == width
    assert lines[0].count("█") >= (16 if width == 80 else 40)


def test_bars_share_one_time_axis() -> None:
    spans = [
        Span("1", "", "root", 0, 100, {}),
        Span("2", "1", "first", 0, 50, {}),
        Span("3", "1", "second", 50, 50, {}),
    ]
    root, first, second = waterfall(spans, width=65).plain.splitlines()
    whole = root.count("█")
    assert (first.count("█"), second.count("█")) == (whole // 2, whole // 2)
    assert second.index("█") == first.rindex("█") + 1


def test_what_the_services_say_of_a_span_stands_beside_its_bar() -> None:
    text = waterfall(TRACE, width=160).plain
    assert "worker-1, tier store" in text
    assert "tier store, visible 123.4 ms, hidden 12.3 ms" in text
    assert "4 steps" in text


def test_notes_that_do_not_fit_are_left_out_whole() -> None:
    line = waterfall(TRACE, width=80).plain.splitlines()[3]
    assert line.endswith("tier store, visible 123.4 ms")


def test_a_span_that_failed_says_so() -> None:
    assert "failed" in waterfall([Span("1", "", "attempt", 0, 5, {"looksmith.outcome": "failed"})], width=80).plain


def test_a_name_that_is_longer_than_half_the_width_is_cut() -> None:
    lines = waterfall([Span("1", "", "n" * 200, 0, 5, {})], width=80).plain.splitlines()
    assert [len(line) for line in lines] == [80]


def test_a_trace_without_spans_is_empty() -> None:
    assert waterfall([], width=80).plain == ""


def test_a_trace_is_complete_once_no_parent_and_no_server_is_missing() -> None:
    both = ("looksmith.generate", "worker.generate")
    assert complete(TRACE, both)
    assert not complete([span for span in TRACE if span.name != "worker.generate"], both), "its children came first"
    assert not complete(TRACE[:2], both), "the worker has sent nothing yet"
    assert not complete(TRACE[1:], both), "the root comes last"
    assert not complete([], both)
