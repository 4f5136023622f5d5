"""Several runs on one page: a row each, what must be known before they are compared, and their curves overlaid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.errors import InputError
from seqsetvae.evaluation.report import figures, interval_figures, numbers
from seqsetvae.evaluation.report.cautions import Caution, are_of
from seqsetvae.evaluation.report.cautions import cautions_of as cautions_of_run
from seqsetvae.evaluation.report.content import Picture, Section, Table
from seqsetvae.evaluation.report.evaluation_file import Estimate
from seqsetvae.evaluation.report.page import write_page
from seqsetvae.evaluation.report.read import Run
from seqsetvae.evaluation.report.tables import ScoredStays
from seqsetvae.evaluation.report.wording import counted, duration, figure_name, number, stacked, with_interval
from seqsetvae.evaluation.statistics import Scores, difference, shares_subjects
from seqsetvae.files import AlreadyThereError, new_folder

RANKING = ("auroc", "auprc")
Runs = Mapping[str, Run]  # by the name that the page gives them


def write_comparison_page(runs: Sequence[Run], output_root_dir: Path) -> Path:
    """report.html and figures/ in a new folder comparison-<date>-<time>.

    Raises:
        InputError: fewer than two runs, or one is named twice.
        CannotWriteError: there is no space, or no right to write.
    """
    named = names_of(runs)
    content = {
        "title": f"Comparison of {counted(len(runs), 'run')}",
        "name": ", ".join(named),
        "cautions": cautions_of(named),
        "overview": overview(named),
        "sections": [section for make in SECTIONS if (section := make(named)) is not None],
    }
    stamp, attempt = time.strftime("%Y%m%d-%H%M%S"), 1
    while True:
        folder = output_root_dir / (f"comparison-{stamp}" + (f"-{attempt}" if attempt > 1 else ""))
        try:
            with new_folder(folder) as partial:
                return folder / write_page("comparison.html", content, partial, runs).name
        except AlreadyThereError:
            attempt += 1


def names_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the last part of their path that tells them apart. Raises InputError for less than two different runs."""
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < max(2, len(folders)):
        raise InputError("runs: a comparison needs two or more different run folders, and each of them once")
    shared = Path(os.path.commonpath(folders))
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [folder.relative_to(shared).as_posix() for folder in folders]
    return dict(zip(names, runs, strict=True))


def cautions_of(runs: Runs) -> list[Caution]:
    """Why figures of these runs may not be comparable."""
    found = []
    differing = {
        "data": {run.events for run in runs.values()},
        "label": {run.label_name for run in runs.values()},
        "split of the evaluation": {run.split for run in runs.values() if run.split is not None},
    }
    for what, values in differing.items():
        if len(values) > 1:
            found.append(Caution("warning", f"The runs differ in their {what}, so their figures are not comparable."))
    for name, run in runs.items():
        if run.worse_than is not None:
            found.insert(0, Caution("warning", f"{name}: {run.worse_than}"))
    for text in dict.fromkeys(text for run in runs.values() for text in run.cautions):
        names = [name for name, run in runs.items() if text in run.cautions]
        found.append(Caution("warning", f"{'All runs' if len(names) == len(runs) else ', '.join(names)}: {text}"))
    without = [name for name, run in runs.items() if run.evaluation is None and run.task_evaluation is None]
    if without:
        watched = " or ".join(dict.fromkeys(runs[name].watched for name in without))
        text = "Without an evaluation, and so without intervals: " + ", ".join(without)
        found.append(Caution("warning", f"{text}. {watched} chose the checkpoint and is optimistic."))
    tasks = {run.task for run in runs.values()} - {"binary"}
    if tasks:
        text = f"Figures of the task {', '.join(sorted(tasks))} are not on this page; --mode evaluate --ckpt A B"
        found.append(Caution("warning", f"{text} compares two runs on the same stays."))
    both = {name: (run.stays, run.evaluation) for name, run in runs.items()}
    apart = [
        name for name, (stays, of) in both.items() if stays is not None and of is not None and not are_of(stays, of)
    ]
    if apart:
        text = "The predictions are not from the evaluation, so curves and table do not belong together: "
        found.append(Caution("warning", f"{text}{', '.join(apart)}. Run --mode evaluate again."))
    unfinished = [name for name, run in runs.items() if run.summary is None]
    if unfinished:
        found.append(Caution("warning", f"Not finished: {', '.join(unfinished)}."))
    seeds = {run.settings.get("seed") for run in runs.values()}
    text = "Intervals that overlap do not show that two runs are equal: on the same stays the paired difference counts."
    if len(seeds) == 1:
        text += " All runs have the same seed, so the figures do not show how much a seed changes."
    return [*found, Caution("note", text)]


def overview(runs: Runs) -> Table:
    """A row for each run."""
    head = ("run", "split", "AUROC", "AUPRC", "Brier score", "best validation", "epoch", "time", "to distrust")
    return Table("Runs", head, [_overview_row(name, run) for name, run in runs.items()])


def _overview_row(name: str, run: Run) -> list[str]:
    evaluation, best, summary = run.evaluation, run.best, run.summary or {}
    names = ("auroc", "auprc", "brier")
    scored = ["–"] * 3 if evaluation is None else [stacked(evaluation.figures.get(each)) for each in names]
    return [
        name,
        "–" if evaluation is None else evaluation.split,
        *scored,
        "–" if best is None else f"{run.watched} {number(best[run.watched], 4)}",
        "–" if best is None else f"{best['epoch']:.0f} of {run.rows[-1]['epoch']:.0f}",
        duration(summary["seconds"]) if "seconds" in summary else "–",
        f"{len(cautions_of_run(run))}",  # as many as its own page lists
    ]


def differences_section(runs: Runs) -> Section | None:
    """The first run minus each other one, for the runs that have predictions for the same stays."""
    scored = _same_split(runs)
    if len(scored) < 2:
        return None
    (first, one), *others = scored.items()
    subject = _subjects(runs[first], one)
    pairs = {name: paired_difference(one, other, subject) for name, other in others}
    found = {name: pair for name, pair in pairs.items() if pair is not None}
    apart = [name for name, pair in pairs.items() if pair is None]
    text = [f"On the {one.split} split, {first} minus each other run; 0 is no difference."] if found else []
    if apart:
        text.append(f"Not paired with {first}, because the stays or labels are not the same: {', '.join(apart)}.")
    head = (f"{first} minus", "AUROC", "AUPRC", "stays")
    rows = [[name, *(stacked(each[key]) for key in RANKING), f"{len(one.label):,}"] for name, each in found.items()]
    unit = "stays" if subject is None else "patients"
    table = Table(f"Paired differences, with 95 % intervals over {unit}", head, rows)
    pictures = [_differences(first, found, key) for key in RANKING] if found else []
    return Section("differences", "Paired differences", text, pictures, [table] if found else [])


def _subjects(run: Run, stays: ScoredStays) -> np.ndarray | None:
    """The patient of each stay [n]; None where each stay is of another, or the data of the run are not there."""
    split = None if run.cohort is None else run.cohort.splits.get(stays.split)
    if split is None or not np.isin(stays.stay_id, split.stay_id).all():
        return None
    subject = split.subjects_of(stays.stay_id)
    return subject if shares_subjects(subject) else None


def paired_difference(
    one: ScoredStays, other: ScoredStays, subject: np.ndarray | None = None
) -> dict[str, Estimate] | None:
    """AUROC and AUPRC of `one` minus those of `other`; None unless both have the same stays with the same labels.

    `subject` [n] is the patient of each stay of `one`, over whom the intervals are; None: over stays.
    """
    ours, theirs = (_by_stay(stays) for stays in (one, other))
    if not all(np.array_equal(a, b) for a, b in zip(ours[:2], theirs[:2], strict=True)):
        return None
    by_stay = None if subject is None else subject[np.argsort(one.stay_id)]
    found = difference(Scores(ours[1], ours[2], subject=by_stay), Scores(theirs[1], theirs[2]))
    return {name: Estimate(each.value or 0.0, each.low, each.high) for name, each in found.items()}


def _by_stay(stays: ScoredStays) -> list[np.ndarray]:
    """Stay ids, labels and logits, by stay."""
    order = np.argsort(stays.stay_id)
    return [column[order] for column in (stays.stay_id, stays.label, stays.logit)]


def _differences(first: str, found: Mapping[str, Mapping[str, Estimate]], name: str) -> Picture:
    each = {run: of_run[name] for run, of_run in found.items()}
    alt = "; ".join(f"{run} {with_interval(estimate)}" for run, estimate in each.items())
    title, caption = f"Difference in {figure_name(name)}", f"{first} minus each run, with 95 % intervals; dotted: none."
    drawn = interval_figures.differences(each, name)
    return Picture(f"difference_{name}", title, caption, f"{title}: {first} minus {alt}.", drawn)


def settings_section(runs: Runs) -> Section | None:
    """The settings in which the runs differ."""
    known = {name: _flat(run) for name, run in runs.items()}
    keys = dict.fromkeys(key for values in known.values() for key in values)
    rows = [[key, *(values.get(key, "–") for values in known.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return None
    table = Table("Settings that differ", ("setting", *runs), rows, numeric=False)
    return Section("settings", "What differs", tables=[table])


def _flat(run: Run) -> dict[str, str]:
    return {name: str(value) for part in ("settings", "sizes") for name, value in (run.config.get(part) or {}).items()}


def curves_section(runs: Runs) -> Section | None:
    """Each metric over epochs, all runs in one picture."""
    metrics = dict.fromkeys(name for run in runs.values() for name in run.metrics)
    pictures = [_curves(runs, name) for name in metrics]
    return Section("training", "Training", pictures=pictures) if pictures else None


def _curves(runs: Runs, metric: str) -> Picture:
    series = {}
    for name, run in runs.items():
        rows = [row for row in run.rows if metric in row]
        series[name] = [row["epoch"] for row in rows], [row[metric] for row in rows]
    last = "; ".join(f"{name} {values[-1]:.4g}" for name, (_, values) in series.items() if values)
    alt = f"{metric} over the epochs. At the end: {last}."
    return Picture(f"compare_{metric}", metric, "", alt, figures.metric_curves(series, metric))


def results_section(runs: Runs) -> Section | None:
    """ROC, precision-recall and calibration of the runs that have predictions for the same split."""
    scored = _same_split(runs)
    if len(scored) < 2:
        return None
    split = next(iter(scored.values())).split
    roc = {name: numbers.roc(each.label, each.logit) for name, each in scored.items()}
    precision = {name: numbers.precision_recall(each.label, each.logit) for name, each in scored.items()}
    bins = {name: numbers.calibration_bins(each.label, each.risk) for name, each in scored.items()}
    first = next(iter(scored.values()))
    pictures = [
        _picture("compare_roc", "ROC", roc, "AUROC", lambda: figures.roc(roc)),
        _picture(
            "compare_precision_recall",
            "Precision and recall",
            precision,
            "AUPRC",
            lambda: figures.precision_recall(precision, first.positives / len(first.label)),
        ),
        Picture(
            "compare_calibration",
            "Calibration",
            "Below, the risks of the first run.",
            f"Predicted risk and observed share of {', '.join(scored)}.",
            figures.calibration(bins, first.risk),
        ),
    ]
    return Section("results", f"Predictions for the {split} split", pictures=pictures)


def _picture(name: str, title: str, curves: Mapping[str, numbers.Curve], area: str, draw: Callable[[], Any]) -> Picture:
    alt = "; ".join(f"{run} {area} {number(curve.area)}" for run, curve in curves.items())
    return Picture(name, title, "", f"{title} curves: {alt}.", draw())


def _same_split(runs: Runs) -> dict[str, ScoredStays]:
    """The predictions of the runs that have any for the split that most runs have."""
    scored = {name: run.stays for name, run in runs.items() if run.stays is not None and run.stays.has_both_classes}
    splits = [each.split for each in scored.values()]
    return {name: each for name, each in scored.items() if each.split == max(splits, key=splits.count)}


SECTIONS: Sequence[Callable[[Runs], Section | None]] = (
    differences_section,
    settings_section,
    results_section,
    curves_section,
)
