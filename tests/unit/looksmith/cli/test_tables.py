import io

import pytest
from rich.console import Console

from looksmith.cli.tables import Listing, table


def printed(listing: Listing, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(listing)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def fleet(names: int) -> Listing:
    rows = [
        (f"worker-{i}", "ready", "NVIDIA H200 141GB HBM3e", f"home, {'adapter ' * 9}", 123.25) for i in range(names)
    ]
    return table(("worker", "state", "device", "why", "total\nms"), rows, expendable=("device", "state"))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_row_is_one_line_however_long_its_texts_are(width: int) -> None:
    lines = printed(fleet(3), width)
    assert len(lines) == 2 + 3
    assert all(len(line) <= width for line in lines)
    for i, line in enumerate(lines[2:]):
        assert line.startswith(f"worker-{i} ") and line.endswith(" 123.2")


def test_what_fits_is_shown_whole() -> None:
    (_, _, row) = printed(fleet(1), 200)
    assert "NVIDIA H200 141GB HBM3e" in row and "…" not in row


def test_columns_are_left_out_in_the_order_they_were_named_in() -> None:
    assert [("device" in text, "state" in text) for text in (" ".join(printed(fleet(1), w)) for w in (90, 60, 40))] == [
        (True, True),
        (False, True),
        (False, False),
    ]


def test_a_long_text_is_cut_where_one_can_see_it_and_a_number_never() -> None:
    lines = printed(table(("name", "note", "n"), [("inkwell", "c" * 90, 123456)]), 80)
    assert lines[1] == f"inkwell  {'c' * 62}…  123456"


def test_a_long_name_leaves_half_the_table_to_the_rest() -> None:
    lines = printed(table(("adapter", "aliases"), [("b" * 127, "production=1, staging=2"), ("c", "d")]), 80)
    assert lines[1] == f"{'b' * 54}…  production=1, staging=2"


def test_names_are_cut_to_half_and_then_the_other_texts_further() -> None:
    lines = printed(table(("a", "b", "c"), [("b" * 99, "c" * 99, "d" * 99)]), 80)
    assert [len(cell) for cell in lines[1].split()] == [40, 18, 18]


def test_numbers_stand_right_and_what_is_not_known_is_a_dash() -> None:
    lines = printed(table(("a", "ms"), [("x", 1.0), ("y", None), ("z", 1234.56)]), 80)
    assert lines == ["a      ms", "x     1.0", "y       -", "z  1234.6"]


def test_cells_are_no_markup_and_one_line() -> None:
    assert printed(table(("a",), [("[bold]Marigold[/] \n & Co.",)]), 80)[1] == "[bold]Marigold[/] & Co."


def test_a_table_without_rows_has_its_headings() -> None:
    assert printed(table(("brand", "recipe"), []), 80) == ["brand  recipe"]
