"""Sections that draw predictions, of one run or of several: curves, calibration, decisions, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from seqsetvae.evaluation.statistics import Scores, difference, shares_subjects
from seqsetvae.report import plots
from seqsetvae.report.parts import (
    Metric,
    Picture,
    Section,
    Table,
    as_name,
    interval,
    metric_name,
    number,
    percent,
    stacked,
    value_of,
    with_interval,
)
from seqsetvae.report.run_files import Plain, Run, Runs, ScoredStays
from seqsetvae.tasks.scores import AT_THRESHOLD

MOST_OUTCOMES = 8  # of a task that pictures show
THRESHOLDS_LISTED = (0.05, 0.1, 0.2, 0.3, 0.5)
RANKING = ("auroc", "auprc")


def _panels(runs: Runs, *, each_outcome: bool = True) -> Iterator[tuple[str, str, dict[str, Plain]]]:
    """(end of a picture's name, end of its title, curves by the name of a line) of each outcome.

    Lines are runs, those that have curves of the split that most have; without `each_outcome` the outcomes of a single
    run are the lines of one panel.
    """
    evaluations = {name: run.evaluation for name, run in runs.items() if run.evaluation and "curves" in run.evaluation}
    splits = [result["split"] for result in evaluations.values()]
    by_outcome: dict[str, dict[str, Plain]] = {}
    for name, evaluation in evaluations.items():
        if evaluation["split"] == max(splits, key=splits.count):
            for curve in [each for each in evaluation["curves"] if "outcome" in each][:MOST_OUTCOMES]:
                by_outcome.setdefault(curve["outcome"], {})[name] = curve
    panels = {outcome: lines for outcome, lines in by_outcome.items() if len(lines) > 1 or len(runs) == 1}
    if len(runs) == 1 and len(panels) > 1 and not each_outcome:
        yield "", "", {outcome: curve for outcome, lines in panels.items() for curve in lines.values()}
        return
    for outcome, lines in panels.items():
        yield (f"_{as_name(outcome)}", f": {outcome}", lines) if len(panels) > 1 else ("", "", lines)


def _threshold(runs: Runs) -> float | None:
    """The threshold of a single run."""
    (run, *others) = runs.values()
    return None if others or run.evaluation is None else run.evaluation.get("threshold")


def discrimination_section(runs: Runs) -> Section | None:
    """ROC and precision-recall curves."""
    rocs, precisions, threshold = [], [], _threshold(runs)
    for name, title, curves in _panels(runs, each_outcome=False):
        first, *others = curves.values()
        point = "" if others or threshold is None or "at_threshold" not in first else f"threshold {number(threshold)}"
        alt = f"ROC curve with {_areas(curves, 'AUROC')}."
        rocs.append(Picture(f"roc{name}", f"ROC{title}", "", alt, plots.roc(curves, point)))
        prevalence = number(first["positives"] / first["stays"])
        alt = f"Precision-recall curve with {_areas(curves, 'AUPRC')}; the prevalence is {prevalence}."
        drawn = plots.precision_recall(curves)
        precisions.append(Picture(f"precision_recall{name}", f"Precision and recall{title}", "", alt, drawn))
    return Section("discrimination", "Discrimination", pictures=rocs + precisions) if rocs else None


def _areas(curves: Mapping[str, Plain], area: str) -> str:
    key = area.lower()
    return "; ".join(f"{name} " * bool(name) + f"{area} {number(curve[key])}" for name, curve in curves.items())


def calibration_section(runs: Runs) -> Section | None:
    """Reliability of the probabilities, with counts, and their distribution."""
    pictures, tables, threshold = [], [], _threshold(runs)
    for name, title, curves in _panels(runs, each_outcome=False):
        lines = {line: list(each["calibration"].values())[-1] for line, each in curves.items()}  # the risk that is used
        (line, first), *others = curves.items()
        told = (
            f"{line} " * bool(others) + f"predicted {number(group['predicted'])}, observed {number(group['observed'])}"
            for line, groups in lines.items()
            for group in groups
        )
        caption = "Groups of about equally many stays; below, how many stays have each risk" + f", of {line}" * bool(
            others
        )
        counts = np.add(first["risk"]["of_label_0"], first["risk"]["of_label_1"]).tolist()
        drawn = plots.calibration(lines if others else first["calibration"], counts)
        alt = f"Predicted risk and observed share by group of stays: {'; '.join(told)}."
        pictures.append(Picture(f"calibration{name}", f"Calibration{title}", f"{caption}.", alt, drawn))
    head = ("mean predicted risk", "observed share", "95 % interval", "positives", "stays")
    for name, title, curves in _panels(runs) if len(runs) == 1 else ():
        (curve,) = curves.values()
        medians = [number(median) for median in curve["risk"]["medians"]]
        alt = f"Histogram of the predicted risk. Its median is {medians[0]} among stays of label 0 and {medians[1]} "
        drawn = plots.risk_histogram(curve["risk"], threshold)
        heading = f"Predicted risk by label{title}"
        pictures.append(Picture(f"risk_histogram{name}", heading, "", f"{alt}among those of label 1.", drawn))
        kind, groups = list(curve["calibration"].items())[-1]
        rows = [[*_means(group), interval(group), f"{group['positives']:,}", f"{group['stays']:,}"] for group in groups]
        tables.append(Table(f"Calibration by group of stays, {kind}{title}", head, rows))
    return Section("calibration", "Calibration and predicted risk", (), pictures, (), tables) if pictures else None


def _means(group: Plain) -> list[str]:
    return [number(group["predicted"]), number(group["observed"])]


def numbers_section(runs: Runs) -> Section | None:
    """Predicted and observed numbers of a task that predicts numbers, a picture for each column."""
    pictures, tables = [], []
    columns: dict[str, dict[str, list[Plain]]] = {}
    for run, of in runs.items():
        for each in (of.evaluation or {}).get("curves") or ():
            if "column" in each:
                columns.setdefault(each["column"], {})[run] = each["groups"]
    caption = "Groups of about equally many stays by what was predicted: the mean, and where 80 % of the stays are."
    head = ("mean predicted", "mean observed", "10 % observed less than", "10 % observed more than", "stays")
    for column, by_run in list(columns.items())[:MOST_OUTCOMES]:
        groups, title = next(iter(by_run.values())), f"{column}: observed by predicted"
        ends = ("low", "high")
        rows = [[*_means(group), *(number(group[end]) for end in ends), f"{group['stays']:,}"] for group in groups]
        alt = "; ".join(f"predicted {row[0]}, observed {row[1]}" for row in rows)
        pictures.append(Picture(f"numbers_{as_name(column)}", title, caption, alt, plots.number_groups(by_run)))
        tables += [Table(title, head, rows)] * (len(runs) == 1)
    return Section("numbers", "Predicted and observed numbers", (), pictures, (), tables) if pictures else None


def decision_section(runs: Runs) -> Section | None:
    """Net benefit by threshold, and the confusion matrix at the chosen one."""
    pictures, listed, tables, is_one = [], [], [], len(runs) == 1
    caption = (
        "True positives minus false positives, these weighted by the odds of the threshold, for each stay (Vickers and "
        "Elkin, 2006). A model is useful where its line is the highest."
    )
    for name, title, curves in _panels(runs):
        (line, first), *_ = curves.items()
        rows = list(zip(*(first["net_benefit"][key] for key in ("threshold", "model", "every_stay")), strict=True))
        useful = [threshold for threshold, own, everyone in rows if own > max(everyone, 0)]
        span = f"between {percent(min(useful))} and {percent(max(useful))}" if useful else "at no threshold"
        alt = f"The net benefit of {line or 'this model'} is above that of acting on every stay and on none {span}."
        drawn = plots.decision_curve({line: curve["net_benefit"] for line, curve in curves.items()})
        pictures.append(Picture(f"decision_curve{name}", f"Decision curve{title}", caption, alt, drawn))
        shown = [
            [percent(t), number(own, 4), number(everyone, 4)] for t, own, everyone in rows if t in THRESHOLDS_LISTED
        ]
        listed += [Table(f"Net benefit{title}", ("threshold", "this model", "every stay"), shown)] * is_one
        tables += _confusion_tables(runs, first) if is_one and "at_threshold" in first else []
    return Section("decisions", "Decisions", (), pictures, tables, listed) if pictures else None


def _confusion_tables(runs: Runs, curve: Plain) -> list[Table]:
    """Counts at the threshold, what follows from them, and what follows from abstaining."""
    counts, (run,) = curve["at_threshold"], runs.values()
    evaluation = run.evaluation or {}
    decision, abstention = evaluation.get("decision") or {}, evaluation.get("abstention")
    kind = "calibrated probability" if "calibrated" in curve["calibration"] else "probability"
    rows = [
        ["label 1", f"{counts['true_positive']:,}\ntrue positive", f"{counts['false_negative']:,}\nfalse negative"],
        ["label 0", f"{counts['false_positive']:,}\nfalse positive", f"{counts['true_negative']:,}\ntrue negative"],
    ]
    caption = f"Calls at {kind} {number(_threshold(runs))} or more, the threshold chosen on the validation split"
    caption += f": {decision['words']}" if decision else ""  # evaluations of earlier versions have none
    metrics = {name: evaluation["figures"].get(name) for name in AT_THRESHOLD} | decision.get("figures", {})
    shares = [[metric_name(name), stacked(metric)] for name, metric in metrics.items() if value_of(metric) is not None]
    tables = [Table(caption, ("", "called positive", "called negative"), rows)]
    tables += [Table("At this threshold", ("metric", "with 95 % interval"), shares)] * bool(shares)
    return tables if abstention is None else [*tables, _abstention_table(abstention)]


def _abstention_table(abstention: Plain) -> Table:
    """What is left undecided, and how often the rest is right."""
    names = ("abstained", "error among decided", "coverage")
    rows = [
        [stays, *(stacked(abstention["figures"].get(name + end)) for name in names)]
        for stays, end in (("all stays", ""), ("label 0", " of label 0"), ("label 1", " of label 1"))
    ]
    counts = abstention["counts"]
    caption = (
        f"With abstention {counts['undecided']:,.0f} stays are undecided, {counts['1']:,.0f} called positive and "
        f"{counts['0']:,.0f} negative. Coverage: not called the other class"
    )
    return Table(caption, ("", "undecided", "error among decided", "coverage"), rows)


# ------------------------------------------------------------------ several runs on the same stays


def differences_section(runs: Runs) -> Section | None:
    """The first run minus each other one, for the runs of one binary label with predictions for the same stays."""
    scored = {name: run.stays for name, run in runs.items() if run.stays is not None}
    splits = [each.split for each in scored.values()]
    scored = {name: each for name, each in scored.items() if each.split == max(splits, key=splits.count)}
    if len(scored) < 2:
        return None
    (first, one), *others = scored.items()
    subject = _subjects(runs[first], one)
    pairs = {name: paired_difference(one, other, subject) for name, other in others}
    compared = {name: pair for name, pair in pairs.items() if pair is not None}
    apart = ", ".join(name for name in pairs if name not in compared)
    text = [f"On the {one.split} split, {first} minus each other run; 0 is no difference."] * bool(compared)
    text += [f"Not paired with {first}, because the stays or labels are not the same: {apart}."] * bool(apart)
    head = (f"{first} minus", "AUROC", "AUPRC", "stays")
    rows = [[name, *(stacked(each[key]) for key in RANKING), f"{len(one.label):,}"] for name, each in compared.items()]
    unit = "stays" if subject is None else "patients"
    tables = [Table(f"Paired differences, with 95 % intervals over {unit}", head, rows)] * bool(compared)
    pictures = [_differences(first, compared, key) for key in RANKING] if compared else []
    return Section("differences", "Paired differences", text, pictures, tables)


def _subjects(run: Run, stays: ScoredStays) -> np.ndarray | None:
    """The patient of each stay [n]; None where each stay is of another, or the data of the run are not there."""
    split = None if run.cohort is None else run.cohort.splits.get(stays.split)
    if split is None or not np.isin(stays.stay_id, split.stay_id).all():
        return None
    subject = split.subjects_of(stays.stay_id)
    return subject if shares_subjects(subject) else None


def paired_difference(
    run: ScoredStays, other: ScoredStays, subject: np.ndarray | None = None
) -> dict[str, Metric] | None:
    """AUROC and AUPRC of `run` minus those of `other`; None unless both have the same stays, of both classes.

    `subject` [n] is the patient of each stay of `run`, over whom the intervals are; None: over stays.
    """
    ours, theirs = np.argsort(run.stay_id), np.argsort(other.stay_id)
    label, by_stay = run.label[ours], None if subject is None else subject[ours]
    same = np.array_equal(run.stay_id[ours], other.stay_id[theirs]) and np.array_equal(label, other.label[theirs])
    if not same or not 0 < label.sum() < len(label):
        return None
    intervals = difference(Scores(label, run.logit[ours], subject=by_stay), Scores(label, other.logit[theirs]))
    return {name: each.as_plain() for name, each in intervals.items()}


def _differences(first: str, compared: Mapping[str, Mapping[str, Metric]], name: str) -> Picture:
    rows = [plots.Row(run, of_run[name]) for run, of_run in compared.items()]
    alt = "; ".join(f"{row.label} {with_interval(row.metric)}" for row in rows)
    title, caption = f"Difference in {metric_name(name)}", f"{first} minus each run, with 95 % intervals; dotted: none."
    drawn = plots.intervals(rows, f"difference of {metric_name(name)}", dotted=0)
    return Picture(f"difference_{name}", title, caption, f"{title}: {first} minus {alt}.", drawn)
