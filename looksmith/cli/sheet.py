"""Lays pictures out as a labelled sheet: a row a brand, a column a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP, MARGIN, HEAD = 10, 118, 44
INK, PAPER = (40, 42, 54), (255, 255, 255)


def _wrapped(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str]) -> Image.Image:
    """One page: ``rows`` of (label, pictures), under the captions of ``columns``. Pictures are of one size."""
    cell = rows[0][1][0].width
    height = HEAD + len(rows) * (cell + GAP)
    page = Image.new("RGB", (MARGIN + len(columns) * (cell + GAP) + GAP, height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    for c, caption in enumerate(columns):
        x = MARGIN + c * (cell + GAP) + cell / 2
        text = _wrapped(caption, cell // 6)
        draw.multiline_text((x, HEAD - 8), text, INK, ImageFont.load_default(11), anchor="md", align="center")
    for r, (label, pictures) in enumerate(rows):
        y = HEAD + r * (cell + GAP)
        text = _wrapped(label, 13)
        draw.multiline_text((12, y + cell / 2), text, INK, ImageFont.load_default(14), anchor="lm")
        for c, picture in enumerate(pictures):
            page.paste(picture, (MARGIN + c * (cell + GAP), y))
    return page
