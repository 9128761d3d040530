"""How each object is drawn: a few flat shapes in one colour, its light and its shade, and fixed accents."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from models.studio.pen import Pen, darker, lighter
from models.studio.scenes import Rgb

INK: Rgb = (44, 46, 58)
PAPER: Rgb = (252, 250, 243)
GLASS: Rgb = (196, 229, 243)
WOOD: Rgb = (150, 104, 66)
GLOW: Rgb = (255, 236, 160)


def light(colour: Rgb) -> Rgb:
    return lighter(colour, 0.34)


def shade(colour: Rgb) -> Rgb:
    # White shades to a cool gray of its own; darker() alone would make it look like the gray paint.
    return darker(colour, 0.14 if min(colour) > 235 else 0.26)


def mug(pen: Pen, c: Rgb) -> None:
    pen.ring(0.52, 0.2, 0.42, 0.44, 0.17, shade(c))
    pen.box(-0.72, -0.62, 0.5, 1.0, c, 0.2)
    pen.box(0.22, -0.5, 0.5, 0.98, shade(c), 0.14)
    pen.box(-0.72, -0.62, 0.3, 1.0, c, 0.2)
    pen.box(-0.56, -0.3, -0.42, 0.7, light(c), 0.07)
    pen.ellipse(-0.11, -0.62, 0.61, 0.17, light(c))
    pen.ellipse(-0.11, -0.62, 0.5, 0.11, (92, 58, 40))


def bottle(pen: Pen, c: Rgb) -> None:
    right = [(0.16, -0.72), (0.17, -0.48), (0.36, -0.28), (0.44, -0.05), (0.44, 0.7), (0.4, 1.0)]
    pen.smooth([*((-x, y) for x, y in reversed(right)), *right], c)
    pen.smooth([(0.14, 1.0), (0.2, 0.7), (0.2, -0.1), (0.1, -0.4), (0.08, -0.68), *right], shade(c))
    pen.box(-0.22, -1.0, 0.22, -0.66, INK, 0.07)
    pen.box(-0.44, 0.08, 0.44, 0.62, PAPER)
    pen.box(-0.3, 0.2, 0.3, 0.28, c)
    pen.box(-0.2, 0.4, 0.2, 0.48, c)
    pen.box(-0.33, -0.2, -0.24, 0.02, light(c), 0.04)


def house(pen: Pen, c: Rgb) -> None:
    pen.box(0.34, -0.82, 0.56, -0.2, (168, 92, 74))
    pen.box(-0.74, -0.12, 0.74, 1.0, c)
    pen.box(0.3, -0.12, 0.74, 1.0, shade(c))
    pen.polygon([(-0.98, -0.08), (0.0, -0.98), (0.98, -0.08)], darker(c, 0.5))
    pen.polygon([(-0.98, -0.08), (0.0, -0.98), (0.16, -0.83), (-0.66, -0.08)], darker(c, 0.36))
    pen.box(-0.5, 0.34, -0.1, 1.0, PAPER, 0.04)
    pen.ellipse(-0.19, 0.7, 0.045, 0.045, INK)
    pen.box(0.14, 0.22, 0.58, 0.62, GLASS, 0.03)
    pen.box(0.34, 0.22, 0.38, 0.62, PAPER)
    pen.box(0.14, 0.4, 0.58, 0.44, PAPER)


def tree(pen: Pen, c: Rgb) -> None:
    pen.polygon([(-0.13, 0.1), (0.13, 0.1), (0.2, 1.0), (-0.2, 1.0)], WOOD)
    pen.polygon([(0.04, 0.1), (0.13, 0.1), (0.2, 1.0), (0.06, 1.0)], darker(WOOD, 0.25))
    pen.ellipse(0.36, -0.04, 0.44, 0.4, shade(c))
    pen.ellipse(-0.38, -0.02, 0.44, 0.4, c)
    pen.ellipse(0.0, -0.46, 0.52, 0.5, c)
    pen.ellipse(0.0, 0.04, 0.46, 0.36, c)
    pen.ellipse(0.4, -0.02, 0.3, 0.28, shade(c))
    pen.ellipse(-0.2, -0.62, 0.16, 0.14, light(c))
    pen.ellipse(-0.5, -0.14, 0.11, 0.1, light(c))


def car(pen: Pen, c: Rgb) -> None:
    pen.smooth([(-0.62, 0.2), (-0.46, -0.22), (-0.2, -0.38), (0.24, -0.38), (0.48, -0.2), (0.68, 0.2)], c)
    body = [(-0.98, 0.68), (-0.96, 0.3), (-0.7, 0.14), (0.66, 0.14), (0.96, 0.32), (0.99, 0.66), (0.8, 0.76)]
    pen.smooth([*body, (-0.8, 0.76)], c)
    pen.box(-0.94, 0.56, 0.95, 0.74, shade(c), 0.08)
    pen.polygon([(-0.48, 0.14), (-0.36, -0.16), (-0.2, -0.26), (-0.02, -0.26), (-0.02, 0.14)], GLASS)
    pen.polygon([(0.08, 0.14), (0.08, -0.26), (0.26, -0.26), (0.4, -0.14), (0.54, 0.14)], GLASS)
    pen.box(-0.8, 0.26, 0.5, 0.33, light(c), 0.03)
    for x in (-0.52, 0.54):
        pen.ellipse(x, 0.74, 0.27, 0.27, INK)
        pen.ellipse(x, 0.74, 0.12, 0.12, (206, 212, 220))
    pen.ellipse(0.9, 0.42, 0.07, 0.09, GLOW)


def star(pen: Pen, c: Rgb) -> None:
    def at(i: int, r: float) -> tuple[float, float]:
        a = -pi / 2 + i * pi / 5
        return r * cos(a), 0.06 + r * sin(a)

    tips = [at(i, 0.96 if i % 2 == 0 else 0.44) for i in range(10)]
    pen.polygon(tips, c)
    for i in range(0, 10, 2):
        pen.polygon([(0, 0.06), tips[i], tips[(i + 1) % 10]], shade(c))
        pen.polygon([(0, 0.06), tips[i], tips[i - 1]], light(c) if i in (0, 8) else c)


def heart(pen: Pen, c: Rgb) -> None:
    outline = [
        (0.96 * sin(t) ** 3, -(0.78 * cos(t) - 0.30 * cos(2 * t) - 0.12 * cos(3 * t) - 0.06 * cos(4 * t)) - 0.08)
        for t in (2 * pi * i / 120 for i in range(120))
    ]
    pen.polygon(outline, shade(c))
    pen.polygon([(x * 0.9 - 0.07, y * 0.9 - 0.06) for x, y in outline], c)
    pen.smooth([(-0.7, -0.2), (-0.66, -0.46), (-0.44, -0.6), (-0.4, -0.5), (-0.56, -0.36), (-0.6, -0.16)], light(c))


def fish(pen: Pen, c: Rgb) -> None:
    pen.polygon([(-0.5, 0.1), (-0.98, -0.34), (-0.86, 0.1), (-0.98, 0.54)], shade(c))
    pen.smooth([(-0.1, -0.36), (0.12, -0.72), (0.42, -0.6), (0.4, -0.3)], shade(c))
    pen.smooth([(0.0, 0.5), (-0.04, 0.8), (0.26, 0.68), (0.3, 0.46)], shade(c))
    back = [(-0.62, 0.1), (-0.2, -0.36), (0.3, -0.46), (0.74, -0.24), (0.96, 0.1)]
    pen.smooth([*back, (0.74, 0.42), (0.3, 0.6), (-0.2, 0.52)], c)
    pen.smooth([(-0.3, 0.34), (0.2, 0.36), (0.8, 0.26), (0.7, 0.44), (0.3, 0.58), (-0.12, 0.53)], light(c))
    for x in (-0.12, 0.18):
        pen.smooth([(x, -0.34), (x + 0.12, 0.08), (x, 0.46), (x - 0.1, 0.44), (x, 0.08), (x - 0.1, -0.3)], shade(c))
    pen.ellipse(0.62, -0.04, 0.13, 0.13, PAPER)
    pen.ellipse(0.65, -0.04, 0.07, 0.07, INK)


def lamp(pen: Pen, c: Rgb) -> None:
    pen.ellipse(0.0, -0.1, 0.36, 0.14, GLOW)
    pen.box(-0.06, -0.1, 0.06, 0.9, (176, 146, 92))
    pen.ellipse(0.0, 0.9, 0.44, 0.12, darker((176, 146, 92), 0.3))
    pen.ellipse(0.0, 0.86, 0.44, 0.11, (176, 146, 92))
    pen.polygon([(-0.4, -0.98), (0.4, -0.98), (0.76, -0.06), (-0.76, -0.06)], c)
    pen.polygon([(0.14, -0.98), (0.4, -0.98), (0.76, -0.06), (0.28, -0.06)], shade(c))
    pen.polygon([(-0.28, -0.86), (-0.16, -0.86), (-0.34, -0.2), (-0.52, -0.2)], light(c))


def chair(pen: Pen, c: Rgb) -> None:
    legs = darker(c, 0.45)
    pen.box(0.34, 0.3, 0.46, 0.88, legs)
    pen.box(-0.3, 0.3, -0.18, 0.88, legs)
    pen.box(-0.52, -0.98, 0.2, 0.3, c, 0.12)
    pen.box(-0.38, -0.82, -0.02, -0.04, light(c), 0.08)
    pen.polygon([(-0.56, 0.12), (0.34, 0.12), (0.68, 0.36), (-0.4, 0.36)], shade(c))
    pen.box(-0.44, 0.34, 0.7, 0.5, darker(c, 0.36), 0.04)
    pen.box(-0.42, 0.46, -0.29, 1.0, legs)
    pen.box(0.55, 0.46, 0.68, 1.0, legs)


def boat(pen: Pen, c: Rgb) -> None:
    pen.box(-0.08, -0.98, 0.0, 0.5, WOOD)
    pen.smooth([(0.04, -0.9), (0.34, -0.4), (0.66, 0.3), (0.3, 0.32), (0.04, 0.3)], PAPER)
    pen.smooth([(-0.13, -0.74), (-0.13, 0.3), (-0.4, 0.32), (-0.7, 0.28), (-0.36, -0.24)], (226, 226, 226))
    pen.polygon([(-0.96, 0.44), (0.98, 0.44), (0.74, 0.86), (0.56, 1.0), (-0.56, 1.0), (-0.76, 0.86)], c)
    pen.polygon([(-0.82, 0.72), (0.84, 0.72), (0.72, 0.88), (0.56, 1.0), (-0.56, 1.0), (-0.74, 0.88)], shade(c))
    pen.box(-0.98, 0.4, 1.0, 0.52, light(c), 0.05)


def shirt(pen: Pen, c: Rgb) -> None:
    pen.polygon([(-0.36, -0.78), (-0.7, -0.64), (-1.0, -0.02), (-0.68, 0.16), (-0.5, -0.14)], shade(c))
    pen.polygon([(0.36, -0.78), (0.7, -0.64), (1.0, -0.02), (0.68, 0.16), (0.5, -0.14)], shade(c))
    right = [(0.38, -0.8), (0.56, -0.66), (0.52, 0.2), (0.58, 0.96)]
    pen.polygon([*right, *((-x, y) for x, y in reversed(right))], c)
    pen.polygon([(0.24, 0.1), (0.52, -0.1), (0.58, 0.96), (0.3, 0.96)], shade(c))
    pen.ellipse(0.0, -0.8, 0.28, 0.2, darker(c, 0.42))
    pen.box(-0.4, -0.24, -0.12, 0.04, light(c), 0.05)


DRAW: dict[str, Callable[[Pen, Rgb], None]] = {
    f.__name__: f for f in (mug, bottle, house, tree, car, star, heart, fish, lamp, chair, boat, shirt)
}
