"""Figures of a report that show one estimate with its interval in each row."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqsetvae.evaluation.report.evaluation_file import Estimate, Evaluation, Group
from seqsetvae.evaluation.report.style import BLUE, MUTED, PAPER, VERMILLION, empty, styled
from seqsetvae.evaluation.report.wording import MODEL, figure_name, model_name

FEW = 10  # positives below which a group's marker is hollow


@styled
def against_baselines(evaluation: Evaluation, name: str, chance: float) -> Figure:
    """A figure of the model and of its baselines, each with its interval, and what chance reaches."""
    rows = [(MODEL, evaluation.figures[name])]
    rows += [
        (_wrapped(model_name(each.name)), each.figures[name]) for each in evaluation.rivals if name in each.figures
    ]
    figure, axes = _rows_of([label for label, _ in rows], name)
    for place, (_, estimate) in enumerate(rows):
        _interval_bar(axes, place, estimate, BLUE if place == 0 else VERMILLION, "o" if place == 0 else "s")
    axes.axvline(chance, color=MUTED, linestyle=":")
    return figure


@styled
def differences(estimates: Mapping[str, Estimate], name: str) -> Figure:
    """Differences of a figure to other runs, by their names, each with its interval; dotted: no difference."""
    figure, axes = _rows_of([_wrapped(run) for run in estimates], name)
    for place, estimate in enumerate(estimates.values()):
        _interval_bar(axes, place, estimate, BLUE, "o")
    axes.axvline(0, color=MUTED, linestyle=":")
    axes.set_xlabel(f"difference of {figure_name(name)}")
    return figure


@styled
def forest(groups: Sequence[Group], overall: Estimate | None, name: str = "auroc") -> Figure:
    """A figure of each subgroup with its interval, and that of all stays as a line."""
    rows = [each for each in groups if name in each.figures]
    labels = [f"{_wrapped(f'{each.column}: {each.name}')}\n{each.positives:,} of {each.stays:,}" for each in rows]
    figure, axes = _rows_of(labels, name)
    for place, each in enumerate(rows):
        _interval_bar(axes, place, each.figures[name], BLUE, "o", hollow=each.positives < FEW)
    if overall is not None:
        axes.axvline(overall.value, color=VERMILLION, linestyle="--", linewidth=1.2)
    return figure


def _rows_of(labels: Sequence[str], name: str) -> tuple[Figure, Axes]:
    """Axes of a figure with one row for each label, from top to bottom."""
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    figure, axes = empty(0.9 + (0.2 + 0.14 * lines) * len(labels), long_labels=True)
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(figure_name(name))
    axes.grid(axis="y", visible=False)
    return figure, axes


def _wrapped(label: str) -> str:
    """At most two lines; tables have the whole name."""
    return "\n".join(textwrap.wrap(label, 26, max_lines=2, placeholder=" …"))


def _interval_bar(axes: Axes, place: float, estimate: Estimate, colour: str, marker: str, hollow: bool = False) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(
        [estimate.value], [place], marker, color=colour, markerfacecolor=PAPER if hollow else colour, markersize=7
    )
