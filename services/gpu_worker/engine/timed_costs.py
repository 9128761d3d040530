"""What the timed engine waits for: times that benchmarks/engine measured, read from the table beside this file.

Measured: a prompt; a step of 1, 2, 4 and 8 rows and decoding so many pictures, all of the studio model; placing and
reading adapters of 14 and 85 MB, the latter as what a cold file takes beside its placing. Between two points lies a
straight line, which goes on beyond the last; below the first all costs what the first does. Of other sizes of pictures
nothing is known: they cost what the measured ones do. Knows nothing about jobs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

TABLE = Path(__file__).with_name("timed_costs.json")


@dataclass(frozen=True)
class Curve:
    """Seconds by rows, pictures or bytes: measured points in rising order, at least two."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of_ms(cls, points: Sequence[tuple[float, float]], scale: float) -> Self:
        return cls(tuple((x, ms / 1e3 * scale) for x, ms in points))

    def at(self, x: float) -> float:
        (x0, y0), (x1, y1) = next(
            (line for line in pairwise(self.points) if x <= line[1][0]), (self.points[-2], self.points[-1])
        )
        return y0 + (y1 - y0) * max(0.0, (x - x0) / (x1 - x0))


@dataclass(frozen=True)
class TimedCosts:
    """``prompt`` is in seconds; ``step`` goes by rows, ``decode`` by pictures, ``place`` and ``read`` by bytes."""

    prompt: float
    step: Curve
    decode: Curve
    place: Curve
    read: Curve

    @classmethod
    def measured(cls, scale: float = 1.0) -> Self:
        """The table's, all of them ``scale`` times as long."""
        table = json.loads(TABLE.read_text("utf-8"))
        return cls(
            prompt=table["prompt_ms"] / 1e3 * scale,
            step=Curve.of_ms(table["step_ms_by_rows"], scale),
            decode=Curve.of_ms(table["decode_ms_by_pictures"], scale),
            place=Curve.of_ms(table["place_ms_by_bytes"], scale),
            read=Curve.of_ms(table["read_ms_by_bytes"], scale),
        )
