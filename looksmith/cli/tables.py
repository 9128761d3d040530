"""Tables that fit the terminal: no row wraps. Knows nothing about what stands in them.

Where a table is too wide, long texts are cut, then columns are left out, in the order that the caller names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2
#: Characters to which a text is cut before a column is left out for it, and to which it is cut at the worst. The first
#: column, which names the row, keeps half the table where it needs it.
READABLE, LEAST = 24, 6


@dataclass(frozen=True)
class Listing:
    """A table before its width is known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    expendable: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[_as_text(cell) for cell in row] for row in self.rows]
        numeric = [bool(self.rows) and all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        widths = _widths(self.columns, cells, numeric, self.expendable, options.max_width)
        made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for i, width in widths.items():
            justify = "right" if numeric[i] else "left"
            made.add_column(self.columns[i], justify=justify, width=width, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]  # a str that is one of its literals
        for row in cells:
            made.add_row(*(Text(row[i]) for i in widths))
        yield made


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, expendable: Sequence[str] = ()) -> Listing:
    """A table whose numbers stand right; ``None`` shows as a dash.

    Args:
        columns: headings; a newline in one folds it.
        rows: a cell for each column.
        expendable: columns to leave out where all do not fit, the least useful first.
    """
    return Listing(columns, rows, expendable)


def _widths(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    expendable: Sequence[str],
    room: int,
) -> dict[int, int]:
    """Width of each column that is shown, by its index."""
    widths = {i: max(map(cell_len, (*name.split("\n"), *(row[i] for row in cells)))) for i, name in enumerate(columns)}

    def excess(widths: dict[int, int]) -> int:
        return sum(widths.values()) + GAP * (len(widths) - 1) - room

    def readable(i: int, width: int) -> int:
        return width if numeric[i] else min(width, READABLE if i else room // 2)

    for name in expendable:
        if excess({i: readable(i, width) for i, width in widths.items()}) <= 0:
            break
        del widths[columns.index(name)]
    texts = [i for i in widths if i and not numeric[i]]
    for group, floor in ((texts, READABLE), ([0], room // 2), (texts, LEAST), ([0], LEAST)):
        while group and excess(widths) > 0:
            longest = max(group, key=widths.__getitem__)
            if widths[longest] <= floor:
                break
            widths[longest] -= 1
    return widths


def _is_number(cell: object) -> bool:
    return cell is None or isinstance(cell, int | float)


def _as_text(cell: object) -> str:
    match cell:
        case None:
            return "-"
        case float():
            return f"{cell:.1f}"
    return " ".join(str(cell).split())
