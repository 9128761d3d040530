import io

import pytest
import typer
from PIL import Image

from looksmith.cli.calls import parse_ref
from looksmith.cli.terminal import Problem, half_blocks, one_line_errors
from looksmith.errors import InvalidField, LooksmithError, NotFound, Unavailable


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_half_blocks_show_two_pixels_a_character() -> None:
    text = half_blocks([png((255, 0, 0)), png((0, 0, 255))], columns=8)
    lines = text.plain.splitlines()
    assert len(lines) == 4
    assert all(line == "▀" * 8 + "  " + "▀" * 8 for line in lines)
    assert {str(span.style) for span in text.spans} == {"#ff0000 on #ff0000", "#0000ff on #0000ff"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), 3),
        (InvalidField("steps", "no"), 4),
        (Unavailable("x"), 6),
        (LooksmithError("x"), 1),
        (Problem("x", 2), 2),
    ],
)
def test_errors_end_in_one_line_and_a_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, one_line_errors():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("b/a", ("alias", "production")),
        ("b/a:staging", ("alias", "staging")),
        ("b/a@3", ("version", 3)),
        ("b/a@sha256:" + "0f" * 32, ("digest", "0f" * 32)),
    ],
)
def test_references_read_as_people_write_them(text: str, pick: tuple[str, object]) -> None:
    ref = parse_ref(text)
    assert (ref.brand, ref.adapter) == ("b", "a")
    assert (ref.WhichOneof("pick"), getattr(ref, pick[0])) == pick


@pytest.mark.parametrize("text", ["inkwell", "b/a@latest"])
def test_a_reference_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        parse_ref(text)
