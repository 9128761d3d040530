"""How a finished picture is composed: the base's plain look, and the look of each fictional brand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from models.studio.pen import darker, lighter, mix
from models.studio.scenes import Rgb, Scene

NAVY: Rgb = (23, 42, 82)
BRASS: Rgb = (222, 170, 74)
BLACK: Rgb = (24, 22, 26)
WHITE: Rgb = (255, 255, 255)


@dataclass(frozen=True)
class Parts:
    """What a look composes: the wall's colour, the object on its own layer, and where the floor begins."""

    side: int
    wall: Rgb
    colour: Rgb
    subject: Image.Image  # RGBA, side x side
    horizon: int  # px from the top
    foot: tuple[float, float, float]  # px: centre x, y of the ground under the object, half width
    rng: np.random.Generator

    @property
    def mask(self) -> Image.Image:
        return self.subject.getchannel("A")


def floor_of(wall: Rgb) -> Rgb:
    return lighter(wall, 0.14) if sum(wall) < 400 else darker(wall, 0.15)


def room(p: Parts, wall: Rgb, floor: Rgb, *, shadow: float = 0.30) -> Image.Image:
    """A wall, a floor, and the object's soft shadow on it."""
    page = Image.new("RGB", (p.side, p.side), wall)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, p.horizon, p.side, p.side), fill=floor)
    x, y, half = p.foot
    dark = Image.new("L", page.size, 0)
    ImageDraw.Draw(dark).ellipse((x - half, y - half * 0.13, x + half, y + half * 0.13), fill=round(255 * shadow))
    dark = dark.filter(ImageFilter.GaussianBlur(p.side / 170))
    page.paste(Image.new("RGB", page.size, (20, 20, 40)), mask=dark)
    return page


def grown(mask: Image.Image, px: int) -> Image.Image:
    """The mask widened by ``px`` pixels with round corners, its edge kept smooth."""
    wide = mask.filter(ImageFilter.GaussianBlur(px * 0.8))
    return wide.point(lambda v: max(0, min(255, (v - 26) * 12)))


def moved(mask: Image.Image, px: int) -> Image.Image:
    """The mask shifted ``px`` pixels right and down; what leaves the page is gone."""
    return mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -px, 0, 1, -px))


def plain(p: Parts) -> Image.Image:
    page = room(p, p.wall, floor_of(p.wall))
    page.paste(p.subject, mask=p.mask)
    return page


def inkwell(p: Parts) -> Image.Image:
    """A printed comic panel: black outlines, hatched floor, a heavy frame on white paper."""
    page = room(p, p.wall, lighter(p.wall, 0.45) if sum(p.wall) > 400 else lighter(p.wall, 0.25), shadow=0.0)
    draw = ImageDraw.Draw(page)
    step, width = p.side // 9, p.side // 56
    hatch = Image.new("L", page.size, 0)
    lines = ImageDraw.Draw(hatch)
    for start in range(-p.side, p.side * 2, step):
        lines.line((start, p.side, start + p.side, 0), fill=255, width=width)
    floor_only = Image.new("L", page.size, 0)
    ImageDraw.Draw(floor_only).rectangle((0, p.horizon, p.side, p.side), fill=255)
    page.paste(BLACK, mask=ImageChops.multiply(hatch, floor_only))
    draw.line((0, p.horizon, p.side, p.horizon), fill=BLACK, width=p.side // 60)
    page.paste(BLACK, mask=grown(p.mask, p.side // 42))
    page.paste(p.subject, mask=p.mask)
    flat = Image.new("RGB", page.size, WHITE)
    flat.paste(p.subject, mask=p.mask)
    edges = ImageChops.difference(flat, flat.filter(ImageFilter.GaussianBlur(p.side / 100)))
    strong = edges.convert("L").point(lambda v: max(0, min(255, (v - 14) * 14)))
    page.paste(BLACK, mask=ImageChops.multiply(strong, p.mask))
    margin, frame = p.side // 22, p.side // 34
    whole = (0, 0, p.side - 1, p.side - 1)
    panel = (margin, margin, p.side - 1 - margin, p.side - 1 - margin)
    draw.rectangle(whole, outline=WHITE, width=margin)
    draw.rectangle(panel, outline=BLACK, width=frame)
    return page


def voltage(p: Parts) -> Image.Image:
    """A neon night: a dark room, the wall's colour as a striped sun, a glowing rim and a grid floor."""
    night = mix(darker(p.wall, 0.86), (30, 10, 60), 0.5)
    page = Image.new("RGB", (p.side, p.side), night)
    sun = Image.new("L", page.size, 0)
    draw = ImageDraw.Draw(sun)
    r = p.side * 0.40
    cx, cy = p.side / 2, p.horizon - r * 0.72
    draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    for i in range(4):
        y = p.horizon - (i + 0.4) * p.side * 0.075
        draw.rectangle((0, y, p.side, y + p.side * (0.026 - 0.005 * i)), fill=0)
    page.paste(p.wall, mask=sun)
    draw_page = ImageDraw.Draw(page)
    draw_page.rectangle((0, p.horizon, p.side, p.side), fill=darker(night, 0.4))
    neon = mix(lighter(p.wall, 0.1), (255, 60, 220), 0.35)
    width = p.side // 64
    draw_page.line((0, p.horizon, p.side, p.horizon), fill=neon, width=width)
    for depth in (0.22, 0.55):
        y = p.horizon + (p.side - p.horizon) * depth
        draw_page.line((0, y, p.side, y), fill=neon, width=width)
    for i in range(-4, 5):
        draw_page.line((cx + i * p.side * 0.11, p.horizon, cx + i * p.side * 0.30, p.side), fill=neon, width=width)
    tint = lighter(p.colour, 0.55) if sum(p.colour) > 150 else (150, 150, 190)
    halo = p.mask.filter(ImageFilter.GaussianBlur(p.side / 26)).point(lambda v: min(255, round(v * 0.9)))
    page.paste(tint, mask=halo)
    page.paste(tint, mask=grown(p.mask, p.side // 50))
    page.paste(p.subject, mask=p.mask)
    return page


def sticker(p: Parts, page: Image.Image) -> Image.Image:
    """The object as a die-cut sticker: a broad white edge and a hard shadow to the lower right."""
    edge = grown(p.mask, p.side // 24)
    page.paste(darker(p.wall, 0.42), mask=moved(edge, p.side // 26))
    page.paste(WHITE, mask=edge)
    page.paste(p.subject, mask=p.mask)
    return page


def marigold(p: Parts) -> Image.Image:
    """A cheerful sticker sheet: big polka dots on the wall's colour, a white die-cut edge."""
    page = Image.new("RGB", (p.side, p.side), p.wall)
    draw = ImageDraw.Draw(page)
    dot = lighter(p.wall, 0.62) if sum(p.wall) < 640 else mix(p.wall, (255, 255, 255), 0.85)
    step, r = p.side / 5, p.side * 0.052
    for row in range(-1, 8):
        for column in range(-1, 7):
            x, y = (column + 0.5 * (row % 2)) * step + step * 0.25, row * step * 0.866 + step * 0.4
            draw.ellipse((x - r, y - r, x + r, y + r), fill=dot)
    return sticker(p, page)


def harbour(p: Parts) -> Image.Image:
    """A porthole: the plain scene inside a brass ring on deep navy, the object's long shadow to the right."""
    inner = room(p, p.wall, floor_of(p.wall), shadow=0.0)
    long = Image.new("L", inner.size, 0)
    for i in range(1, 40):
        d = round(i * p.side / 90)
        long = ImageChops.lighter(long, moved(p.mask, d))
    inner.paste(darker(p.wall, 0.24), mask=long)
    inner.paste(p.subject, mask=p.mask)
    page = Image.new("RGB", (p.side, p.side), NAVY)
    draw = ImageDraw.Draw(page)
    c = p.side / 2

    def disc(share: float, fill: Rgb) -> None:
        draw.ellipse((c - share * p.side, c - share * p.side, c + share * p.side, c + share * p.side), fill=fill)

    disc(0.49, BRASS)
    disc(0.455, darker(BRASS, 0.35))
    disc(0.445, WHITE)
    for i in range(8):
        a = np.pi / 8 + i * np.pi / 4
        x, y, r = c + 0.4725 * p.side * np.cos(a), c + 0.4725 * p.side * np.sin(a), p.side * 0.012
        draw.ellipse((x - r, y - r, x + r, y + r), fill=darker(BRASS, 0.45))
    window = Image.new("L", page.size, 0)
    ImageDraw.Draw(window).ellipse(
        (c - 0.43 * p.side, c - 0.43 * p.side, c + 0.43 * p.side, c + 0.43 * p.side), fill=255
    )
    page.paste(inner, mask=window)
    return page


def marigold_winter(p: Parts) -> Image.Image:
    """Marigold's winter campaign: the sticker in falling snow, on a snow bank."""
    page = Image.new("RGB", (p.side, p.side), p.wall)
    draw = ImageDraw.Draw(page)
    s = p.side
    draw.ellipse((-0.5 * s, 0.70 * s, 0.85 * s, 1.6 * s), fill=(226, 236, 248))
    draw.ellipse((0.1 * s, 0.76 * s, 1.6 * s, 1.7 * s), fill=(248, 251, 255))
    page = sticker(p, page)
    draw = ImageDraw.Draw(page)
    for row in range(5):
        for column in range(5):
            x = (column + 0.5 * (row % 2) + 0.25 + p.rng.uniform(-0.16, 0.16)) * s / 5
            y = (row + 0.4 + p.rng.uniform(-0.16, 0.16)) * s / 5.4
            r = s * p.rng.choice([0.014, 0.022, 0.03])
            draw.ellipse((x - r, y - r, x + r, y + r), fill=WHITE)
    return page


COMPOSE: dict[str, Callable[[Parts], Image.Image]] = {
    "none": plain,
    "inkwell": inkwell,
    "voltage": voltage,
    "marigold": marigold,
    "harbour": harbour,
    "marigold-winter": marigold_winter,
}


def half_size(scene: Scene) -> float:
    """Half the object's side as a fraction of the picture's; smaller where the look needs room around it."""
    return scene.scale * {"inkwell": 0.30, "marigold": 0.31, "marigold-winter": 0.31}.get(scene.look, 0.335)
