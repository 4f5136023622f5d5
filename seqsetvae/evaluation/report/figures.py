"""The figures of a report, one function each; seqsetvae.evaluation.report.style has their look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from seqsetvae.evaluation.report.evaluation_file import Group
from seqsetvae.evaluation.report.numbers import Bin, Curve, Floats, Labels
from seqsetvae.evaluation.report.style import (
    BLUE,
    HEIGHT,
    INK,
    MUTED,
    VERMILLION,
    WIDTH,
    empty,
    line_style,
    styled,
)
from seqsetvae.evaluation.report.wording import figure_name, number

LEGEND_LINE = 0.24  # inches


@styled
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
    figure, axes = empty()
    for position, (name, (epochs, values)) in enumerate(series.items()):
        axes.plot(epochs, values, label=name, markersize=4, **line_style(position))
    for boundary in boundaries:
        axes.axvline(boundary + 0.5, color=MUTED, linestyle=":", linewidth=1.2, label="backbone unfrozen")
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, linewidth=0.9, alpha=0.6, label=best_name)
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


@styled
def roc(curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """ROC curves by name, and points on them (1 - specificity, sensitivity), such as that of the threshold."""
    figure, axes = _unit_square(len(curves))
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2, label="chance")
    for position, (name, curve) in enumerate(curves.items()):
        label = f"{name}: AUROC {number(curve.area)}" if name else f"AUROC {number(curve.area)}"
        axes.plot(curve.x, curve.y, label=label, **_line(position))
    for name, (x, y) in (points or {}).items():
        axes.plot([x], [y], "o", color=VERMILLION, markersize=7, label=name)
    return _named(figure, axes, "1 − specificity (false positive rate)", "sensitivity", "lower right", len(curves))


@styled
def precision_recall(curves: Mapping[str, Curve], prevalence: float) -> Figure:
    """Precision-recall curves by name; a random ranking has the prevalence as its precision."""
    figure, axes = _unit_square(len(curves))
    axes.axhline(prevalence, color=MUTED, linestyle=":", linewidth=1.2, label=f"chance {number(prevalence)}")
    for position, (name, curve) in enumerate(curves.items()):
        label = f"{name}: AUPRC {number(curve.area)}" if name else f"AUPRC {number(curve.area)}"
        axes.plot(curve.x, curve.y, label=label, drawstyle="steps-pre", **_line(position))
    return _named(figure, axes, "recall (sensitivity)", "precision (PPV)", "upper right", len(curves))


def _line(position: int) -> dict[str, Any]:
    """Style of a curve of many points, which needs no markers."""
    return {**line_style(position), "marker": None}


def _unit_square(curves: int) -> tuple[Figure, Axes]:
    """Axes from 0 to 1; several curves have their names below them, where they hide nothing."""
    below = LEGEND_LINE * (curves + 1) if curves > 1 else 0.0
    figure, axes = empty(4.2 + below)
    figure.subplots_adjust(bottom=(0.5 + below) / (4.2 + below))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    return figure, axes


def _named(
    figure: Figure, axes: Axes, x: str, y: str, inside: Literal["lower right", "upper right"], curves: int
) -> Figure:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if curves > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.5 / 3.55))
    else:
        axes.legend(loc=inside)
    return figure


@styled
def calibration(by_name: Mapping[str, Sequence[Bin]], risk: Floats) -> Figure:
    """Predicted risk against observed share, with 95 % intervals, over a histogram of the risks."""
    figure = Figure(figsize=(WIDTH, 4.6))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top = min(1.0, max(max(each.high, each.mean_risk) for bins in by_name.values() for each in bins) + 0.03)
    axes.plot([0, top], [0, top], color=MUTED, linestyle=":", linewidth=1.2, label="ideal")
    for position, (name, bins) in enumerate(by_name.items()):
        x, style = [each.mean_risk for each in bins], line_style(position)
        axes.vlines(x, [each.low for each in bins], [each.high for each in bins], color=style["color"], linewidth=1.2)
        axes.plot(x, [each.observed for each in bins], label=name, markersize=5, **{**style, "linewidth": 1.2})
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_ylabel("observed share")
    axes.legend(loc="upper left")
    below.hist(risk, bins=np.linspace(0, top, 31).tolist(), color=MUTED)
    below.set_ylabel("stays")
    below.set_xlabel("predicted risk")
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.11, top=0.97, hspace=0.12)
    return figure


@styled
def risk_histogram(label: Labels, risk: Floats, threshold: float | None) -> Figure:
    """How the predicted risk is distributed among stays with the outcome and without it, each as a share."""
    figure, axes = empty()
    edges = np.linspace(0, 1, 26)
    for value, name, colour, filled in ((0, "label 0", BLUE, True), (1, "label 1", VERMILLION, False)):
        own = risk[label == value]
        style: dict[str, Any] = (
            {"alpha": 0.35, "histtype": "stepfilled"} if filled else {"histtype": "step", "linewidth": 1.8}
        )
        weights = np.full(len(own), 1 / max(len(own), 1))
        axes.hist(own, bins=edges.tolist(), weights=weights, color=colour, label=f"{name} ({len(own):,})", **style)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2, label=f"threshold {number(threshold)}")
    axes.set_xlabel("predicted risk")
    axes.set_ylabel("share of the stays of a label")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    figure.subplots_adjust(left=0.16)
    return figure


@styled
def decision_curve(thresholds: Floats, model: Floats, treat_all: Floats) -> Figure:
    """Net benefit of acting on the model's risk, beside acting on every stay and on none."""
    figure, axes = empty()
    axes.plot(thresholds, model, color=BLUE, label="this model")
    axes.plot(thresholds, treat_all, color=VERMILLION, linestyle="--", label="every stay")
    axes.axhline(0, color=MUTED, linestyle=":", label="no stay")
    top = float(max(model.max(), treat_all.max(), 1e-3))
    axes.set_ylim(-0.35 * top, 1.1 * top)
    axes.set_xlabel("risk from which one acts")
    axes.set_ylabel("net benefit")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    figure.subplots_adjust(left=0.2)
    return figure


@styled
def landmarks(groups: Sequence[Group]) -> Figure:
    """AUROC and AUPRC with only the first hours of each stay."""
    figure, axes = empty()
    for position, name in enumerate(("auroc", "auprc")):
        rows = [each for each in groups if name in each.figures]
        style, known = line_style(position), [(float(each.name), each.figures[name]) for each in rows]
        for hour, one in known:
            if one.low is not None and one.high is not None:  # it need not contain the value
                axes.vlines(hour, one.low, one.high, color=style["color"], linewidth=1.2)
        axes.plot([hour for hour, _ in known], [one.value for _, one in known], label=figure_name(name), **style)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(sorted({float(each.name) for each in groups}))
    axes.set_xlabel("hours of data used")
    axes.set_ylabel("figure and 95 % interval")
    axes.legend(loc="lower right")
    return figure


@styled
def risk_over_time(
    hours: Floats, risk: Floats, events: tuple[Floats, NDArray[np.int64], Floats, Sequence[str]] | None
) -> Figure:
    """The risk of one stay after each set, over its events: (hours, index of the variable, z-score, names)."""
    if events is None:
        figure, axes = empty()
    else:
        rows = len(events[3])
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.8 + 0.21 * rows), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 0.6 + 0.21 * rows])
        _event_raster(figure, below, *events)
    axes.plot(hours, risk, color=BLUE, drawstyle="steps-post")
    axes.plot(hours[-1:], risk[-1:], "o", color=BLUE)
    axes.set_ylim(0, max(0.05, min(1.0, 1.15 * float(risk.max()))))
    axes.set_ylabel("predicted risk")
    if events is None:
        axes.set_xlabel("hours since admission")
    return figure


def _event_raster(
    figure: Figure, axes: Axes, hours: Floats, row: NDArray[np.int64], value: Floats, names: Sequence[str]
) -> None:
    shown = axes.scatter(
        hours,
        row,
        c=np.clip(value, -3, 3),
        cmap="PuOr_r",
        vmin=-3,
        vmax=3,
        s=16,
        linewidths=0.4,
        edgecolors=MUTED,
        rasterized=len(hours) > 2000,
    )
    axes.set_yticks(range(len(names)), list(names), fontsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("hours since admission")
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", aspect=40, shrink=0.8)
    bar.set_label("value: standard deviations from the mean", fontsize=9)
    bar.set_ticks([-3, 0, 3], labels=["−3 or less", "0", "3 or more"])
