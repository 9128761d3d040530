"""Draws how long jobs took under each policy, from the figures that benchmarks.placement keeps.

python -m benchmarks.placement_chart FIGURES.json OUT.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLOURS = {
    "Looksmith": "#1f6f78",
    "bounded load": "#d9923b",
    "least request": "#8a4f9e",
    "prefer resident": "#6b8f3c",
    "one owner": "#c1462f",
    "random": "#888888",
}


def waits(cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Seconds from arrival to picture, by case and policy: a line from the median to p99, a dot at p95; logarithmic."""
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "looksmith", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (policy, colour) in enumerate(COLOURS.items()):
            places = [place + (number - 2.5) * 0.12 for place in range(len(cases))]
            p50, p95, p99 = ([of[policy][f"p{percent}_s"] for of in cases.values()] for percent in (50, 95, 99))
            axes.vlines(places, p50, p99, color=colour, linewidth=2, label=policy)
            axes.plot(places, p95, "o", color=colour, markersize=4)
        axes.set(yscale="log", ylabel="s from arrival to picture: p50, p95, p99")
        axes.set_xticks(range(len(cases)), labels=[case.replace(", ", "\n") for case in cases])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(visible=True, axis="y", which="major", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.15))
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    figure = waits(json.loads(arguments.figures.read_text())["cases"])
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
