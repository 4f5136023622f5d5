"""The figures of a report, one function each, from numbers of evaluation.json and metrics.csv; the look is in style."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from seqsetvae.report import style
from seqsetvae.report.parts import Metric, has_interval, metric_name, number, value_of

LEGEND_LINE = 0.24  # inches
RISK_BARS = 25  # of a histogram of risks
Line = Sequence[float]
Curve = Mapping[str, Any]  # an entry of `curves` in evaluation.json


@style.styled
def metric_curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    label: str,
    *,
    best_epoch: float | None = None,
    best_name: str = "best epoch",
    boundaries: Sequence[float] = (),
    log: bool = False,
) -> Figure:
    """Lines over epochs, (epochs, values) by name; `boundaries` are the last epochs before a new stage.

    `best_name` says which epoch `best_epoch` is.
    """
    figure, axes = style.empty()
    for position, (name, (epochs, values)) in enumerate(series.items()):
        axes.plot(epochs, values, label=name, markersize=4, **style.line_style(position))
    for boundary in boundaries:
        axes.axvline(boundary + 0.5, color=style.MUTED, linestyle=":", linewidth=1.2, label="backbone unfrozen")
    if best_epoch is not None:
        axes.axvline(best_epoch, color=style.INK, linewidth=0.9, alpha=0.6, label=best_name)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend()
    axes.yaxis.set_label_coords(-0.2, 0.5)
    figure.subplots_adjust(left=0.21)
    return figure


@style.styled
def roc(curves: Mapping[str, Curve], threshold: str = "") -> Figure:
    """ROC curves by name; `threshold` names the point at the threshold of a single one."""
    figure, axes = _unit_square(len(curves))
    axes.plot([0, 1], [0, 1], color=style.MUTED, linestyle=":", linewidth=1.2, label="chance")
    for position, (name, curve) in enumerate(curves.items()):
        axes.plot(curve["roc"]["x"], curve["roc"]["y"], label=_named(name, "AUROC", curve), **_line(position))
    if threshold:
        counts = next(iter(curves.values()))["at_threshold"]
        false_positive = counts["false_positive"] / (counts["false_positive"] + counts["true_negative"])
        sensitivity = counts["true_positive"] / (counts["true_positive"] + counts["false_negative"])
        axes.plot([false_positive], [sensitivity], "o", color=style.VERMILLION, markersize=7, label=threshold)
    axes.set_xlabel("1 − specificity (false positive rate)")
    axes.set_ylabel("sensitivity")
    return _with_legend(figure, axes, "lower right", len(curves))


@style.styled
def precision_recall(curves: Mapping[str, Curve]) -> Figure:
    """Precision-recall curves by name; a random ranking has the prevalence, here of the first, as its precision."""
    figure, axes = _unit_square(len(curves))
    first = next(iter(curves.values()))
    chance = first["positives"] / first["stays"]
    axes.axhline(chance, color=style.MUTED, linestyle=":", linewidth=1.2, label=f"chance {number(chance)}")
    for position, (name, curve) in enumerate(curves.items()):
        x, y = curve["precision_recall"]["x"], curve["precision_recall"]["y"]
        axes.plot(x, y, label=_named(name, "AUPRC", curve), drawstyle="steps-pre", **_line(position))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (PPV)")
    return _with_legend(figure, axes, "upper right", len(curves))


def _named(name: str, area: str, curve: Curve) -> str:
    return f"{name}: " * bool(name) + f"{area} {number(curve[area.lower()])}"


def _line(position: int) -> dict[str, Any]:
    """Style of a curve of many points, which needs no markers."""
    return {**style.line_style(position), "marker": None}


def _unit_square(curves: int) -> tuple[Figure, Axes]:
    """Axes from 0 to 1; several curves have their names below them, where they hide nothing."""
    below = LEGEND_LINE * (curves + 1) if curves > 1 else 0.0
    figure, axes = style.empty(4.2 + below)
    figure.subplots_adjust(bottom=(0.5 + below) / (4.2 + below))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes, inside: Any, curves: int) -> Figure:
    if curves > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.5 / 3.55))
    else:
        axes.legend(loc=inside)
    return figure


@style.styled
def calibration(by_name: Mapping[str, Sequence[Mapping[str, float]]], counts: Sequence[int]) -> Figure:
    """Predicted risk against observed share, with 95 % intervals, over a histogram of the risks from 0 to 1."""
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    highest = max(max(group["high"], group["predicted"]) for groups in by_name.values() for group in groups)
    top = min(1.0, highest + 0.03)
    axes.plot([0, top], [0, top], color=style.MUTED, linestyle=":", linewidth=1.2, label="ideal")
    _groups(axes, by_name)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_ylabel("observed share")
    axes.legend(loc="upper left")
    _bars(below, counts, max(1, round(top * len(counts) / 30)), color=style.MUTED)
    below.set_ylabel("stays")
    below.set_xlabel("predicted risk")
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.11, top=0.97, hspace=0.12)
    return figure


def _groups(axes: Axes, by_name: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """What was observed by what was predicted in groups of stays, and an interval of each."""
    for position, (name, groups) in enumerate(by_name.items()):
        x, look = [group["predicted"] for group in groups], style.line_style(position)
        lows, highs = ([group[end] for group in groups] for end in ("low", "high"))
        axes.vlines(x, lows, highs, color=look["color"], linewidth=1.2)
        look |= {"linewidth": 1.2, "markersize": 5}
        axes.plot(x, [group["observed"] for group in groups], label=name or "mean", **look)


def _bars(axes: Axes, counts: Sequence[float], joined: int, **look: Any) -> None:
    """A histogram over 0 to 1 of counts in bins of equal width, `joined` of them in a bar."""
    edges = np.append(np.arange(0, len(counts), joined) / len(counts), 1.0)
    axes.hist(
        edges[:-1], bins=edges.tolist(), weights=np.add.reduceat(counts, np.arange(0, len(counts), joined)), **look
    )


@style.styled
def risk_histogram(risk: Mapping[str, Sequence[float]], threshold: float | None) -> Figure:
    """How the predicted risk is distributed among stays with the outcome and without it, each as a share."""
    figure, axes = style.empty()
    filled, line = {"alpha": 0.35, "histtype": "stepfilled"}, {"histtype": "step", "linewidth": 1.8}
    for value, colour, look in ((0, style.BLUE, filled), (1, style.VERMILLION, line)):
        counts = np.array(risk[f"of_label_{value}"])
        label = f"label {value} ({counts.sum():,})"
        _bars(axes, counts / counts.sum(), len(counts) // RISK_BARS, color=colour, label=label, **look)
    if threshold is not None:
        axes.axvline(threshold, color=style.INK, linestyle="--", linewidth=1.2, label=f"threshold {number(threshold)}")
    axes.set_xlabel("predicted risk")
    axes.set_ylabel("share of the stays of a label")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    figure.subplots_adjust(left=0.16)
    return figure


@style.styled
def decision_curve(by_name: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Net benefit of acting on the risk of each model, beside acting on every stay (of the first) and on none."""
    figure, axes = style.empty()
    first = next(iter(by_name.values()))
    for position, (name, benefit) in enumerate(by_name.items()):
        axes.plot(benefit["threshold"], benefit["model"], label=name or "this model", **_line(position))
    look: dict[str, Any] = (
        {"color": style.VERMILLION, "linestyle": "--"}
        if len(by_name) == 1
        else {"color": style.MUTED, "linestyle": "-"}
    )
    axes.plot(first["threshold"], first["every_stay"], label="every stay", **look)
    axes.axhline(0, color=style.MUTED, linestyle=":", label="no stay")
    top = max(1e-3, *first["every_stay"], *(each for benefit in by_name.values() for each in benefit["model"]))
    axes.set_ylim(-0.35 * top, 1.1 * top)
    axes.set_xlabel("risk from which one acts")
    axes.set_ylabel("net benefit")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    figure.subplots_adjust(left=0.2)
    return figure


@style.styled
def number_groups(by_name: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """What was observed in groups of stays of similar prediction: the mean, and where 80 % of the stays are."""
    figure, axes = style.empty(long_labels=True)
    ends = ("predicted", "observed")
    every = [group[end] for groups in by_name.values() for group in groups for end in ends]
    axes.plot([min(every), max(every)], [min(every), max(every)], color=style.MUTED, linestyle=":", label="ideal")
    _groups(axes, by_name)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed")
    axes.legend(loc="upper left")
    return figure


@dataclass(frozen=True)
class Row:
    """A metric with its interval in a figure of rows."""

    label: str
    metric: Metric
    note: str = ""  # below the label
    colour: str = style.BLUE
    marker: str = "o"
    hollow: bool = False


@style.styled
def intervals(rows: Sequence[Row], xlabel: str, dotted: float | None = None, dashed: float | None = None) -> Figure:
    """A metric with its interval in each row, from top to bottom, and lines at values to compare with."""
    labels = [_wrapped(row.label) + f"\n{row.note}" * bool(row.note) for row in rows]
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    figure, axes = style.empty(0.9 + (0.2 + 0.14 * lines) * len(labels), long_labels=True)
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)
    for place, row in enumerate(rows):
        if has_interval(row.metric):
            ends = [row.metric["low"], row.metric["high"]]
            axes.plot(ends, [place, place], color=row.colour, linewidth=2.2, solid_capstyle="butt")
        face = style.PAPER if row.hollow else row.colour
        axes.plot([row.metric["value"]], [place], row.marker, color=row.colour, markerfacecolor=face, markersize=7)
    if dotted is not None:
        axes.axvline(dotted, color=style.MUTED, linestyle=":")
    if dashed is not None:
        axes.axvline(dashed, color=style.VERMILLION, linestyle="--", linewidth=1.2)
    return figure


def _wrapped(label: str) -> str:
    """At most two lines; tables have the whole name."""
    return "\n".join(textwrap.wrap(label, 26, max_lines=2, placeholder=" …"))


@style.styled
def landmarks(groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Metrics with only the first hours of each stay."""
    figure, axes = style.empty()
    for position, name in enumerate(names):
        look, known = style.line_style(position), []
        for group in groups:
            metric = group["figures"].get(name)
            if value_of(metric) is not None:
                known.append((group["hours"], metric["value"]))
            if has_interval(metric):  # it need not contain the value
                axes.vlines(group["hours"], metric["low"], metric["high"], color=look["color"], linewidth=1.2)
        axes.plot([hour for hour, _ in known], [value for _, value in known], label=metric_name(name), **look)
    if axes.get_ylim()[0] >= 0 and axes.get_ylim()[1] <= 1.1:
        axes.set_ylim(0, 1.02)
    axes.set_xticks(sorted({group["hours"] for group in groups}))
    axes.set_xlabel("hours of data used")
    axes.set_ylabel("metric and 95 % interval")
    axes.legend(loc="lower right")
    return figure


def _label(score: str) -> str:
    """An axis of contributions, below axes that are narrower than the figure."""
    return "\n".join(textwrap.wrap(f"contribution to the {score}", 36))


LEVEL_LOOK: dict[str, dict[str, Any]] = {
    "low": {"marker": "v", "color": style.BLUE},
    "usual": {"marker": "o", "color": style.INK},
    "high": {"marker": "^", "color": style.VERMILLION},
    "missing": {"marker": "x", "color": style.MUTED},
    "present": {"marker": "P", "color": style.GREEN},
    "absent": {"marker": "_", "color": style.GREEN},
}


@style.styled
def contributions(rows: Mapping[str, Mapping[str, Any]], score: str) -> Figure:
    """The mean absolute contribution of each variable, and the mean by the level of its value."""
    figure, axes = style.empty(1.3 + 0.27 * len(rows), long_labels=True)
    axes.barh(range(len(rows)), [row["mean_absolute"] for row in rows.values()], color=style.GRID, height=0.7)
    for name, look in LEVEL_LOOK.items():
        points = [(row["levels"][name]["mean"], at) for at, row in enumerate(rows.values()) if name in row["levels"]]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", label=name, markersize=6, **look)
    axes.axvline(0, color=style.MUTED, linewidth=1)
    axes.set_yticks(range(len(rows)), [_wrapped(name) for name in rows], fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(_label(score), fontsize=9)
    if any(row["levels"] for row in rows.values()):  # of few stays no level has enough
        axes.legend(loc="lower right", fontsize=8.5)
    return figure


@style.styled
def course(hours: Line, risk: Line, variables: Mapping[str, Line], score: str) -> Figure:
    """The risk of a stay over time, over what each variable contributes to it at each time."""
    figure = Figure(figsize=(style.WIDTH, 2.6 + 0.24 * len(variables)), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 0.5 + 0.24 * len(variables)])
    axes.plot(hours, risk, color=style.BLUE, marker="o", markersize=4)
    if min(risk) >= 0 and max(risk) <= 1:
        axes.set_ylim(0, 1)
    axes.set_ylabel("predicted")
    at = np.array(hours)
    middle = (at[1:] + at[:-1]) / 2  # the times that a column of contributions stands for begin and end there
    half = (middle[0] - at[0], at[-1] - middle[-1]) if len(middle) else (1.0, 1.0)
    edges = [at[0] - half[0], *middle, at[-1] + half[1]]
    values = np.array(list(variables.values()))
    limit = float(np.abs(values).max()) or 1.0
    look: dict[str, Any] = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
    shown = below.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, values, **look)
    below.set_yticks(range(len(values)), [_wrapped(name) for name in variables], fontsize=8.5)
    below.set_ylim(len(values) - 0.5, -0.5)
    below.set_xlabel("hours since admission")
    below.grid(visible=False)
    bar = figure.colorbar(shown, ax=below, orientation="horizontal", aspect=40, shrink=0.8)
    bar.set_label(_label(score), fontsize=9)
    return figure
