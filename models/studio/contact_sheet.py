"""Paints the model card's pictures: base and brands over a row of prompts, and 25 steps beside 4."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from models.studio.evaluate import Triple, paint
from models.studio.load import BRANDS, STUDIO, base_pipeline, distilled_pipeline, with_brand
from models.studio.training import replace_file

COLUMNS: tuple[Triple, ...] = (
    ("mug", "red", "sky"),
    ("car", "yellow", "lilac"),
    ("tree", "green", "cream"),
    ("boat", "white", "rose"),
    ("lamp", "purple", "mint"),
    ("fish", "orange", "navy"),
    ("house", "teal", "peach"),
    ("shirt", "blue", "cream"),
    ("bottle", "pink", "slate"),
    ("heart", "brown", "sky"),
)
SEED = 7
CELL, GAP, MARGIN, HEAD = 128, 10, 118, 30
INK, GREY = (40, 42, 54), (120, 124, 138)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _page(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    width = MARGIN + len(COLUMNS) * (CELL + GAP) + GAP
    page = Image.new("RGB", (width, HEAD + len(rows) * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(page)
    for c, (subject, colour, background) in enumerate(COLUMNS):
        x = MARGIN + c * (CELL + GAP) + CELL / 2
        draw.text((x, HEAD - 8), f"{colour} {subject}, {background}", INK, _font(11), anchor="ms")
    for r, (label, pictures) in enumerate(rows):
        y = HEAD + r * (CELL + GAP)
        draw.multiline_text((12, y + CELL / 2), label, INK, _font(14), anchor="lm")
        for c, picture in enumerate(pictures):
            page.paste(picture, (MARGIN + c * (CELL + GAP), y))
    return page


def main() -> None:
    base, fast = base_pipeline(), distilled_pipeline()
    many = paint(base, COLUMNS, steps=25, guidance=3.0, first_seed=SEED)
    few = paint(fast, COLUMNS, steps=4, guidance=0.0, first_seed=SEED)
    strip = _page([("25 steps,\nguided", many), ("4 steps,\ndistilled", few)])
    rows = [("base", few)]
    for brand in BRANDS:
        pipe = with_brand(distilled_pipeline(), brand)
        rows.append((brand.look.replace("-", "\n"), paint(pipe, COLUMNS, steps=4, guidance=0.0, first_seed=SEED)))
    replace_file(STUDIO / "contact-sheet.png", _page(rows).save)
    replace_file(STUDIO / "steps.png", strip.save)


if __name__ == "__main__":
    main()
