"""What the command prints: one clear line on errors, JSON, and pictures as half blocks."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress, ProgressColumn
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
    except KeyboardInterrupt:
        _leave("stopped before it was done", 130)
    except OSError as error:
        if not error.filename:  # such as a pipe that nobody reads any more, which typer knows
            raise
        _leave(f"{error.filename}: {error.strerror}", 1)


def _leave(line: str, code: int) -> NoReturn:
    err.print(Text("error: ", style="bold red") + Text(line), soft_wrap=True)
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """Plain JSON on standard output, for a pipe."""
    out.file.write(json.dumps(value, indent=2) + "\n")


def say(line: str) -> None:
    """One line for people: as it stands, and left to the terminal to wrap, so that paths can be copied."""
    out.print(line, markup=False, soft_wrap=True)


def note(line: str) -> None:
    """One line that the reader should know though it is no error."""
    out.print(Text("note: ", style="yellow") + Text(line), soft_wrap=True)


def progress(*columns: ProgressColumn, quiet: bool) -> Progress:
    """A bar on standard error that is gone when it is done; none where nobody watches."""
    return Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)


def half_blocks(pictures: Sequence[bytes], *, columns: int, width: int, captions: Sequence[str] = ()) -> Text:
    """Pictures side by side; one character shows two pixels, upper and lower.

    Args:
        pictures: encoded images.
        columns: characters that each is wide, less where all of them would be wider than ``width``.
        width: of the terminal.
        captions: a word for each, above it.
    """
    columns = max(2, min(columns, (width + 2) // len(pictures) - 2))
    grids = [Image.open(io.BytesIO(p)).convert("RGB").resize((columns, columns)) for p in pictures]
    text = Text()
    if captions:
        text.append("  ".join(f"{caption[:columns]:<{columns}}" for caption in captions) + "\n")
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
