import io

import pytest
import typer
from PIL import Image

from looksmith.cli.terminal import Problem, half_blocks, one_line_errors
from looksmith.errors import InvalidField, LooksmithError, NotFound, Unavailable


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_half_blocks_show_two_pixels_a_character() -> None:
    text = half_blocks([png((255, 0, 0)), png((0, 0, 255))], columns=8, width=80)
    lines = text.plain.splitlines()
    assert len(lines) == 4
    assert all(line == "▀" * 8 + "  " + "▀" * 8 for line in lines)
    assert {str(span.style) for span in text.spans} == {"#ff0000 on #ff0000", "#0000ff on #0000ff"}


def test_pictures_get_smaller_where_they_would_wrap() -> None:
    pictures, names = [png((0, 0, 0))] * 5, ("base", "a-name-that-is-longer-than-its-picture", "c", "d", "e")
    lines = half_blocks(pictures, columns=24, width=80, captions=names).plain.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].count("▀") == 5 * 14
    assert lines[0].startswith("base            a-name-that-is  c ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), 3),
        (InvalidField("steps", "no"), 4),
        (Unavailable("x"), 6),
        (LooksmithError("x"), 1),
        (Problem("x", 2), 2),
        (Unavailable("a line that is longer than a terminal " * 9), 6),
        (PermissionError(13, "Permission denied", "/out"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_end_in_one_line_and_a_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, one_line_errors():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.count("\n") == 1
