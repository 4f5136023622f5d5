"""Figures of docs/performance.md: `python -m benchmarks.plots outputs/benchmarks FOLDER`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "figures"}  # text stays text; the same run, the same file
OURS, WANTED, QUIET = "#2a6f97", "#9a031e", "#6c757d"
GROWTH = re.compile(r"(?P<what>.+?) (?:an epoch of )?(?P<stays>[\d,]+) stays")


def ratios(sections: dict[str, list[dict[str, Any]]]) -> plt.Figure:
    """Bars of every ratio that the project asks for, on a log scale, with a mark at what is wanted."""
    rows = [
        row for figures in sections.values() for row in figures if row["ratio"] and row["wanted"] and row["wanted"] > 1
    ]
    labels = [f"{row['what']}\nagainst {row['baseline_is']}" for row in rows]
    figure, axes = _bars(rows, labels, " {:,.3g}×")
    axes.set_xscale("log")
    axes.set_xlim(1, 3 * max(row["ratio"] for row in rows))
    axes.set_xlabel("times as fast as the baseline (red: wanted)")
    return figure


def shares(figures: list[dict[str, Any]]) -> plt.Figure:
    """Achieved FLOP/s over those of plain matrix products."""
    figure, axes = _bars(figures, [row["what"] for row in figures], " {:.0%}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlim(0, 1)
    axes.set_xlabel("% of the rate of plain matrix products of the same shapes (red: wanted)")
    return figure


def _bars(rows: list[dict[str, Any]], labels: list[str], written: str) -> tuple[plt.Figure, plt.Axes]:
    """A bar for each ratio with a mark at the wanted one; the ratio is `written` beside it."""
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(rows) + 1.1), layout="constrained")
    axes.barh(range(len(rows)), [row["ratio"] for row in rows], color=OURS, height=0.6)
    for place, row in enumerate(rows):
        if row["wanted"]:
            axes.plot([row["wanted"]] * 2, [place - 0.4, place + 0.4], color=WANTED, linewidth=2)
        axes.annotate(written.format(row["ratio"]), (max(row["ratio"], row["wanted"] or 0), place), va="center")
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def growth(figures: list[dict[str, Any]]) -> plt.Figure:
    """Time for a stay and own memory, by the number of synthetic stays."""
    figure, both = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
    wanted = (("stays/s", "time, µs a stay", lambda speed: 1e6 / speed), ("MiB", "own memory, MiB", float))
    for axes, (unit, label, shown) in zip(both, wanted, strict=True):
        series: dict[str, list[tuple[int, float]]] = {}
        for row in figures:
            match = GROWTH.fullmatch(row["what"])
            if match and row["unit"] == unit:
                stays = int(match["stays"].replace(",", ""))
                series.setdefault(match["what"].split(" to ")[-1], []).append((stays, shown(row["value"])))
        for (what, points), style in zip(series.items(), ("o-", "s--"), strict=False):
            points.sort()
            axes.plot(*zip(*points, strict=True), style, color=OURS if style == "o-" else QUIET, label=what)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("synthetic stays")
        axes.set_ylabel(label)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Write ratios.svg, floor.svg and growth.svg, each where its sections were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="folder that holds figures.json")
    parser.add_argument("output", type=Path, help="folder for the figures")
    arguments = parser.parse_args()
    sections = json.loads((arguments.figures / "figures.json").read_text())["sections"]
    arguments.output.mkdir(parents=True, exist_ok=True)
    made = {"ratios": ratios(sections)} if {"loop", "frozen", "data"} & sections.keys() else {}
    made |= {name: draw(sections[name]) for name, draw in (("floor", shares), ("growth", growth)) if name in sections}
    for name, figure in made.items():
        figure.savefig(arguments.output / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
