"""The flow of stays, from the source to the evaluated ones: as counts, as a table, and as a diagram.

What an import did not record is said to be unknown. Counts are those of the data folder, where it still is.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from seqsetvae.cohort.imported import read_skipped
from seqsetvae.report import style
from seqsetvae.report.parts import Picture, Table, percent
from seqsetvae.report.run_files import Run
from seqsetvae.system.errors import InputError
from seqsetvae.system.privacy import absolute_paths, without_folders

UNKNOWN = "not recorded"
REASONS = 5  # that are named; the others are counted together
NAME = "flow"  # of the picture's files
WIDTH = 4.45  # inches; so are the next
LINE, EDGE, GAP, TRUNK = 0.175, 0.08, 0.28, 0.35  # of text, around it, between boxes, from the left to the way down
CHARACTERS = 13.5  # of an inch of text


@dataclass(frozen=True)
class Step:
    """Some stays on their way."""

    name: str
    stays: int | None  # None: not recorded
    labelled: int | None = None  # of them; None: not recorded, or not of the label of the run
    positives: int | None = None

    @property
    def outcome(self) -> str:
        """Such as `224 (14.0 %)`, of those with a label."""
        if self.positives is None or self.labelled is None:
            return "–"
        share = f"{self.positives:,} ({percent(self.positives / self.labelled)})" if self.labelled else ""
        return share or "no stay has a label"

    @property
    def count(self) -> str:
        return UNKNOWN if self.stays is None else f"{self.stays:,}"


@dataclass(frozen=True)
class Flow:
    """Steps from the source to the evaluated stays."""

    source: Step
    left_out: Step
    reasons: Sequence[tuple[str, int | None]]  # why, and how many stays, the most frequent first
    splits: Sequence[Step]
    evaluated: Step | None


def flow_of(run: Run) -> Flow | None:
    """The flow of the stays of a run; None where its data are no longer there."""
    if run.cohort is None:
        return None
    manifest, binary = run.cohort.manifest, run.task == "binary"  # the cohort counts its one binary label
    report = manifest.get("report") or {}
    splits = [
        Step(f"{name} split", split["stays"], *((split["labelled"], split["positives"]) if binary else ()))
        for name, split in manifest["splits"].items()
    ]
    faults = report.get("faults") or {}
    known = [report[name] for name in ("faulty_files", "left_out") if name in report]
    gone = sum(known) if len(known) == 2 else None
    of_faults = gone is not None and binary and report["left_out"] == 0 and "labelled" in faults
    outcome = (faults["labelled"], faults["positives"]) if of_faults else ()
    kept = sum(split["stays"] for split in manifest["splits"].values())
    evaluation = run.evaluation
    source = without_folders(str(manifest.get("source", f"source {UNKNOWN}")), absolute_paths(run.config))
    return Flow(
        Step(source, None if gone is None else kept + gone),
        Step("left out", gone, *outcome),
        _reasons(run, report),
        splits,
        None
        if evaluation is None
        else Step(
            f"evaluated: {evaluation['split']}",
            evaluation["stays"],
            *((evaluation["stays"], evaluation["positives"]) if "positives" in evaluation else ()),
        ),
    )


def _reasons(run: Run, report: dict[str, Any]) -> list[tuple[str, int | None]]:
    """Kinds of faults, reasons why others were left out, and what the run itself found."""
    assert run.cohort is not None, "the caller asks"
    kinds = (report.get("faults") or {}).get("kinds") or {}
    counts: Counter[str] = Counter({kind: stays for kind, stays in kinds.items() if stays})
    unknown: list[tuple[str, int | None]] = []
    try:
        skips = read_skipped(run.cohort.path)
    except InputError:
        skips, unknown = [], [("why: skipped.csv cannot be read", None)]
    counts.update(skip.reason for skip in skips if not (skip.is_fault and kinds))
    listed: list[tuple[str, int | None]] = list(counts.most_common(REASONS))
    if others := counts.total() - sum(stays or 0 for _, stays in listed):
        listed.append(("other reasons", others))
    if not listed and (report.get("left_out") or report.get("faulty_files")):
        unknown = unknown or [(f"why: {UNKNOWN}", None)]
    by_run = [(line, None) for line in run.recorded.get("notices") or () if line.endswith("other event, left out")]
    return [*listed, *unknown, *by_run]


def flow_table(flow: Flow) -> Table:
    """The steps as rows."""
    rows = [[step.name, step.count, step.outcome] for step in (flow.source, flow.left_out)]
    rows += [[f"left out: {why}", UNKNOWN if stays is None else f"{stays:,}", "–"] for why, stays in flow.reasons]
    for step in (*flow.splits, *([] if flow.evaluated is None else [flow.evaluated])):
        rows.append([step.name, step.count, step.outcome])
        if step.labelled is not None and step.stays is not None and step.labelled < step.stays:
            rows.append([f"{step.name}: without a label", f"{step.stays - step.labelled:,}", "–"])
    caption = "Flow of stays (–: not recorded, or not counted for this task)"
    return Table(caption, ("step", "stays", "with the outcome (share of the labelled)"), rows, numeric=False)


def flow_picture(flow: Flow) -> Picture:
    """The diagram; its text is that of the table."""
    rows = "; ".join(f"{step}: {stays} stays, outcome {outcome}" for step, stays, outcome in flow_table(flow).rows)
    caption = "Stays in the data folder, by split, with the number that have the outcome."
    return Picture(NAME, "Flow of stays", caption, f"{rows}.", _drawn(flow), wide=True)


@style.styled
def _drawn(flow: Flow) -> Figure:
    """The source, what was left out beside the way down, the splits, and the evaluated stays below their split."""
    why = [f"{reason}: {UNKNOWN if stays is None else f'{stays:,}'}" for reason, stays in flow.reasons]
    column = WIDTH / max(1, len(flow.splits))
    rows = [[_Box(0, WIDTH - TRUNK, _text(flow.source))], [_Box(2 * TRUNK, WIDTH, _text(flow.left_out, why))]]
    rows.append([_Box(column * at, column * (at + 1), _text(step)) for at, step in enumerate(flow.splits)])
    if flow.evaluated is not None:
        ends = [step.name == f"{flow.evaluated.name.removeprefix('evaluated: ')} split" for step in flow.splits]
        own = rows[-1][ends.index(True) if True in ends else 0]
        rows.append([_Box(own.left, own.right, _text(flow.evaluated))])
    heights = [max(box.height for box in row) for row in rows]
    tops = [sum(heights[:at]) + GAP * at for at in range(len(rows))]
    figure = Figure(figsize=(WIDTH + 2 * EDGE, tops[-1] + heights[-1] + 2 * EDGE))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-EDGE, WIDTH + EDGE), ylim=(tops[-1] + heights[-1] + EDGE, -EDGE))
    axes.set_axis_off()
    bus = tops[2] - GAP / 2  # where the way down parts into the splits
    _line(axes, (TRUNK, heights[0]), (TRUNK, bus))
    _line(axes, (TRUNK, tops[1] + heights[1] / 2), (2 * TRUNK, tops[1] + heights[1] / 2), arrow=True)
    _line(axes, (min(TRUNK, rows[2][0].middle), bus), (max(TRUNK, rows[2][-1].middle), bus))
    for row, top, height in zip(rows, tops, heights, strict=True):
        for box in row:
            box.draw(axes, top, height)
            if row is not rows[0] and row is not rows[1]:
                _line(axes, (box.middle, top - (GAP / 2 if row is rows[2] else GAP)), (box.middle, top), arrow=True)
    return figure


@dataclass(frozen=True)
class _Box:
    """Text in a frame, in inches; the frame is a little narrower than its place."""

    left: float
    right: float
    text: str

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Each with its weight: the name, which comes first, is bold."""
        width = int(CHARACTERS * (self.right - self.left - 2 * EDGE))
        weights = ["bold", *("normal" for _ in self.text.split("\n"))]
        parts = zip(self.text.split("\n"), weights, strict=False)
        return [(part, weight) for line, weight in parts for part in textwrap.wrap(line, width)]

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + 2 * EDGE

    def draw(self, axes: Axes, top: float, height: float) -> None:
        corner, size = (self.left + EDGE / 2, top), (self.right - self.left - EDGE, height)
        axes.add_patch(Rectangle(corner, *size, facecolor=style.PAPER, edgecolor=style.MUTED))
        for at, (line, weight) in enumerate(self.lines):
            place = self.left + EDGE * 1.5, top + EDGE + LINE * (at + 0.5)
            axes.text(*place, line, fontsize=9, va="center", weight=weight)


def _text(step: Step, more: Sequence[str] = ()) -> str:
    without = [] if None in (step.labelled, step.stays) else [(step.stays or 0) - (step.labelled or 0)]
    lines = [step.name, f"{step.count} stays" if step.stays is not None else f"stays: {UNKNOWN}"]
    lines += [f"{n:,} without a label" for n in without if n]
    if step.positives is not None:  # the share stays whole where the line ends before it
        share = step.outcome.replace(" %", "\N{NO-BREAK SPACE}%")
        lines.append(f"outcome: {share}")
    return "\n".join([*lines, *more])


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, arrow: bool = False) -> None:
    look = {"arrowstyle": "-|>" if arrow else "-", "color": style.MUTED, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axes.annotate("", end, start, arrowprops=look)
