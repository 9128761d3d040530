"""Draws what benchmarks measured, from the figures that they keep.

python -m benchmarks.charts FIGURES.json OUT.svg
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

#: Label, pattern of the figures' names, colour; the number in a name is that of brands.
SERIES = (
    ("diffusers: load another", r"diffusers_load_(\d+)_ms", "#c1462f"),
    ("diffusers: set_adapters among residents", r"diffusers_set_adapters_(\d+)_ms", "#d9923b"),
    ("Looksmith: from host memory into a slot", r"from_host_(\d+)_ms", "#1f6f78"),
)
HOTSWAP, FROM_DISK = "diffusers_hotswap_ms", "from_disk_256_ms"


def swap_times(figures: Mapping[str, float]) -> Figure:
    """Milliseconds until a brand acts, against the number of brands; both axes logarithmic."""
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "looksmith", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for label, pattern, colour in SERIES:
            points = sorted(
                (int(match[1]), value) for name, value in figures.items() if (match := re.fullmatch(pattern, name))
            )
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
        axes.plot(1, figures[HOTSWAP], "s", color="#8a4f9e", label="diffusers: hotswap (one brand at a time)")
        axes.plot(256, figures[FROM_DISK], "^", color="#1f6f78", label="Looksmith: from its disk into a slot")
        axes.set(xscale="log", yscale="log", xlabel="brands", ylabel="ms until a brand's adapter acts")
        ticks = [1, 2, 4, 8, 16, 64, 256]
        axes.set_xticks(ticks, labels=map(str, ticks), minor=False)
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center right")
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    figure = swap_times(json.loads(arguments.figures.read_text()))
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
