"""Paints the model card's pictures: base and brands over a row of prompts, and 25 steps beside 4."""

from __future__ import annotations

from looksmith.cli.sheet import contact_sheet
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


def main() -> None:
    base, fast = base_pipeline(), distilled_pipeline()
    many = paint(base, COLUMNS, steps=25, guidance=3.0, first_seed=SEED)
    few = paint(fast, COLUMNS, steps=4, guidance=0.0, first_seed=SEED)
    captions = [f"{colour} {subject}, {background}" for subject, colour, background in COLUMNS]
    strip = contact_sheet([("25 steps, guided", many), ("4 steps, distilled", few)], captions)
    rows = [("base", few)]
    for brand in BRANDS:
        pipe = with_brand(distilled_pipeline(), brand)
        rows.append((brand.look.replace("-", " "), paint(pipe, COLUMNS, steps=4, guidance=0.0, first_seed=SEED)))
    replace_file(STUDIO / "contact-sheet.png", contact_sheet(rows, captions).save)
    replace_file(STUDIO / "steps.png", strip.save)


if __name__ == "__main__":
    main()
