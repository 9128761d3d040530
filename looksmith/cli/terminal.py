"""What the command prints: one clear line on errors, tables, JSON, and pictures as half blocks."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from looksmith.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LooksmithError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

#: Exit codes, so that scripts can act on them; 1 is everything else, 2 is how typer refuses a command line.
EXIT_CODES: dict[type[LooksmithError], int] = {
    NotFound: 3,
    InvalidArgument: 4,
    FailedPrecondition: 4,
    AlreadyExists: 4,
    PermissionDenied: 5,
    Unauthenticated: 5,
    Unavailable: 6,
    ResourceExhausted: 6,
    DeadlineExceeded: 7,
}


#: Exit codes of a command that was stopped by SIGINT (Ctrl-C) and by SIGTERM, as shells have them.
STOPPED = (130, 143)


class Problem(Exception):
    """Something that ends the command with one line and a code."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.line, self.code = line, code


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what can go wrong into one line on standard error and an exit code."""
    try:
        yield
    except LooksmithError as error:
        code = next((c for kind, c in EXIT_CODES.items() if isinstance(error, kind)), 1)
        _leave(f"{error.message} [{error.reason}]", code)
    except Problem as problem:
        _leave(problem.line, problem.code)
    except (KeyboardInterrupt, asyncio.CancelledError) as signalled:
        _leave("stopped before it was done", STOPPED[isinstance(signalled, asyncio.CancelledError)])


def _leave(line: str, code: int) -> NoReturn:
    err.print(Text("error: ", style="bold red") + Text(line))
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """Plain JSON on standard output, for a pipe."""
    out.file.write(json.dumps(value, indent=2) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> Table:
    """A table whose numbers stand right."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        made.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row))
    return made


def half_blocks(pictures: Sequence[bytes], *, columns: int) -> Text:
    """Pictures side by side, each ``columns`` characters wide; one character shows two pixels, upper and lower."""
    grids = [Image.open(io.BytesIO(p)).convert("RGB").resize((columns, columns)) for p in pictures]
    text = Text()
    for y in range(0, columns - 1, 2):
        for i, grid in enumerate(grids):
            if i:
                text.append("  ")
            for x in range(columns):
                upper, lower = grid.getpixel((x, y)), grid.getpixel((x, y + 1))
                text.append("▀", style=f"{_hex(upper)} on {_hex(lower)}")
        text.append("\n")
    return text


def _hex(pixel: object) -> str:
    if not isinstance(pixel, tuple):
        raise TypeError(f"an RGB pixel is a tuple, not {pixel!r}")
    return "#{:02x}{:02x}{:02x}".format(*pixel)
