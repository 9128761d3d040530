"""Reads the tables of docs/metrics.md. Knows the page's shape, and nothing of what it should say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


@dataclass(frozen=True)
class Metric:
    """``labels`` are its own, those of Prometheus left out."""

    kind: str
    unit: str
    labels: frozenset[str]


def rows(*, columns: int) -> list[list[str]]:
    """Cells of every row whose first names something, of tables that have so many columns."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and "`" in row[0]]


def documented_metrics() -> dict[str, Metric]:
    return {
        row[0].strip("`"): Metric(row[1], row[2], frozenset(re.findall(r"`(\w+)`", row[3]))) for row in rows(columns=5)
    }


def documented_spans() -> set[str]:
    return {row[0].lstrip("— ").strip("`") for row in rows(columns=4)}
