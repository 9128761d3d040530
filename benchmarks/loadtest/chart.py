"""Draws a load test as the talk drew its own: successes and failures a second over time, and what was done meanwhile.

Knows no system; takes the report that the test keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

GREEN, RED, GREY = "#2a8f5b", "#c1462f", "#8a8a8a"
#: How much higher the first panel is than its curves, for the names of what was done.
NAMES = 1.3
#: Points of a curve, at most.
POINTS = 240


def load_test(report: Mapping[str, Any]) -> Figure:
    """From a report with ``timeline`` and ``happenings``, times in seconds since the load began."""
    seconds = float(report["seconds"])
    width_s = max(1.0, seconds / POINTS)
    edges = np.arange(0.0, seconds + width_s, width_s)
    middles = (edges[:-1] + edges[1:]) / 2
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "looksmith", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        rates, latencies, workers = figure.subplots(3, 1, sharex=True, height_ratios=[4, 2.2, 1.6])
        # 1. The talk's picture
        for name, colour, key in (("successes", GREEN, "well"), ("failures", RED, "failed")):
            counts, _ = np.histogram(report["timeline"][key], edges)
            rates.plot(middles, counts / width_s, color=colour, label=f"{name} per second", linewidth=1.2)
        rates.set_ylabel("requests per second")
        top = rates.get_ylim()[1] * NAMES
        rates.set_ylim(-0.02 * top, top)
        rates.legend(frameon=False, loc="upper left", ncols=2, bbox_to_anchor=(0, 1.12))
        # 2. How long each request took
        latencies.plot(
            *(report["timeline"]["well"], report["timeline"]["took"], "."),
            color=GREEN, markersize=1.5, alpha=0.5,
            rasterized=True,  # thousands of points would make the file a hundred times as large
        )  # fmt: skip
        latencies.set(ylabel="seconds a request", yscale="log")
        # 3. How many workers there were, and what was done
        at, ready = zip(*report["ready"], strict=True)
        workers.step(at, ready, where="post", color="#1f6f78", linewidth=1.2)
        workers.set(ylabel="workers ready", xlabel="seconds", xlim=(0, seconds), ylim=(0, 4.6), yticks=range(5))
        _mark((rates, latencies, workers), report["happenings"])
        for axes in (rates, latencies, workers):
            axes.spines[["top", "right"]].set_visible(False)
        return figure


def _mark(panels: Sequence[Any], happenings: Sequence[tuple[float, str]]) -> None:
    """A line for each act, named at the top."""
    for at, what in happenings:
        if " ended with " in what or " goes on" in what:
            continue
        for axes in panels:
            axes.axvline(at, color=GREY, linewidth=0.6, linestyle=":")
        panels[0].annotate(
            what,
            (at, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6.5,
            color="#555555",
            ha="right",
            va="top",
        )


def save(report: Mapping[str, Any], file: Path) -> None:
    """As SVG or PNG, by the file's name."""
    load_test(report).savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
