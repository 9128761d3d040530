"""A pen that draws in the unit square of an object, whatever its place, size and side in the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from models.studio.scenes import Rgb

Point = tuple[float, float]


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Moves colour ``a`` towards ``b`` by ``share`` (0: a, 1: b)."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]  # three in, three out


def lighter(colour: Rgb, share: float) -> Rgb:
    return mix(colour, (255, 255, 255), share)


def darker(colour: Rgb, share: float) -> Rgb:
    return mix(colour, (18, 18, 32), share)


class Pen:
    """Draws on a transparent layer; x runs right and y down, both from -1 to 1 over the object's box.

    The object stands on y = 1. Layers are drawn large and shrunk once, which is the antialiasing.
    """

    def __init__(self, side: int, *, centre: Point, half: float, flipped: bool = False) -> None:
        self.layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.layer)
        self._centre = (centre[0] * side, centre[1] * side)
        self._half = half * side
        self._sign = -1.0 if flipped else 1.0

    def _at(self, points: Sequence[Point]) -> list[Point]:
        (cx, cy), k = self._centre, self._half
        return [(cx + self._sign * x * k, cy + y * k) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Rgb) -> None:
        self._draw.polygon(self._at(points), fill=(*fill, 255))

    def smooth(self, points: Sequence[Point], fill: Rgb) -> None:
        """Fills the closed curve through ``points`` (Catmull-Rom)."""
        p = np.asarray(points, dtype=float)
        before, after, later = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
        t = np.linspace(0, 1, 16, endpoint=False)[:, None, None]
        curve = 0.5 * (
            2 * p
            + (after - before) * t
            + (2 * before - 5 * p + 4 * after - later) * t**2
            + (3 * p - before - 3 * after + later) * t**3
        )
        self.polygon([(x, y) for x, y in curve.transpose(1, 0, 2).reshape(-1, 2)], fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Rgb) -> None:
        angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        self.polygon([(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles], fill)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, fill: Rgb) -> None:
        angles = np.linspace(0, 2 * np.pi, 96)
        outer = [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles]
        inner = [(x + (rx - width) * np.cos(a), y + (ry - width) * np.sin(a)) for a in angles[::-1]]
        self.polygon(outer + inner, fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb, radius: float = 0.0) -> None:
        if not radius:
            self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)
            return
        corners = (
            (x1 - radius, y1 - radius, 0),
            (x0 + radius, y1 - radius, 90),
            (x0 + radius, y0 + radius, 180),
            (x1 - radius, y0 + radius, 270),
        )
        points = [
            (cx + radius * np.cos(np.radians(a)), cy + radius * np.sin(np.radians(a)))
            for cx, cy, start in corners
            for a in np.linspace(start, start + 90, 12)
        ]
        self.polygon(points, fill)

    def line(self, points: Sequence[Point], width: float, fill: Rgb) -> None:
        at = self._at(points)
        w = max(1, round(width * self._half))
        self._draw.line(at, fill=(*fill, 255), width=w, joint="curve")
        for x, y in (at[0], at[-1]):
            self._draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=(*fill, 255))
