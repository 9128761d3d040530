"""Draws a soak: what memory each process had after how many requests. Knows the report that the soak keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#1f6f78", "#c1462f", "#d9923b", "#8a4f9e", "#2a8f5b", "#8a8a8a")


def memory(report: Mapping[str, Any]) -> Figure:
    """From a report with ``requests`` and ``memory``: by process, pairs of requests and bytes."""
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "looksmith", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for (name, points), colour in zip(sorted(report["memory"].items()), COLOURS * 3, strict=False):
            at, held = zip(*points, strict=True)
            axes.plot(at, [held_bytes / 2**20 for held_bytes in held], color=colour, linewidth=1.2, label=name)
        axes.axvline(report["requests"] / 4, color="#8a8a8a", linewidth=0.8, linestyle=":")
        axes.set(xlabel="requests", ylabel="MiB of its own, as Linux counts them", xlim=(0, report["requests"]))
        axes.set_ylim(bottom=0)
        axes.annotate("what grows from here on", (report["requests"] / 4, 0), fontsize=7, color="#555555")
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return figure


def save(report: Mapping[str, Any], file: Path) -> None:
    """As SVG or PNG, by the file's name."""
    memory(report).savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
