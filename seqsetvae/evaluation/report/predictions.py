"""Sections that draw predictions, of one run or of several: curves, calibration, decisions, differences, one stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from seqsetvae.cohort.format import Cohort
from seqsetvae.evaluation.report import plots
from seqsetvae.evaluation.report.parts import (
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
from seqsetvae.evaluation.report.run_files import Floats, Plain, Run, Runs, ScoredStays
from seqsetvae.evaluation.statistics import Scores, difference, shares_subjects

MOST_OUTCOMES = 8  # of a task that pictures show
VARIABLES_SHOWN = 12  # of one stay: those with most events
THRESHOLDS_LISTED = (0.05, 0.1, 0.2, 0.3, 0.5)
RANKING = ("auroc", "auprc")


def _by_outcome(runs: Runs) -> dict[str, dict[str, Plain]]:
    """Curves by outcome and by the name of a line: of the runs that have them for the split that most have.

    The outcomes of one run are the lines of one picture; those of several runs have a picture each.
    """
    with_curves = {
        name: run.evaluation for name, run in runs.items() if run.evaluation and run.evaluation.get("curves")
    }
    splits = [each["split"] for each in with_curves.values()]
    panels: dict[str, dict[str, Plain]] = {}
    for run, evaluation in with_curves.items():
        drawn = [each for each in evaluation["curves"] if "outcome" in each][:MOST_OUTCOMES]
        for each in drawn if evaluation["split"] == max(splits, key=splits.count) else ():
            name = each["outcome"] if len(drawn) > 1 or run else ""
            panels.setdefault(name if run else "", {})[run or name] = each
    if len(runs) > 1:
        panels = {name: lines for name, lines in panels.items() if len(lines) > 1}
        return {name * (len(panels) > 1): lines for name, lines in panels.items()}
    return panels


def _each_panel(runs: Runs, name: str) -> Iterator[tuple[str, str, dict[str, Plain]]]:
    """(name of a picture, what follows its title, its lines) of each outcome."""
    for outcome, lines in _by_outcome(runs).items():
        yield name + f"_{as_name(outcome)}" * bool(outcome), f": {outcome}" * bool(outcome), lines


def _threshold(run: Run) -> float | None:
    return (run.evaluation or {}).get("threshold")


def discrimination_section(runs: Runs) -> Section | None:
    """ROC and precision-recall curves."""
    pictures = []
    for name, title, curves in _each_panel(runs, "roc"):
        threshold = _threshold(next(iter(runs.values())))
        point = f"threshold {number(threshold)}" if threshold is not None and list(curves) == [""] else ""
        point *= all("at_threshold" in each for each in curves.values())
        alt = f"ROC curve with {_areas(curves, 'AUROC')}."
        pictures.append(Picture(name, f"ROC{title}", "", alt, plots.roc(curves, point)))
    for name, title, curves in _each_panel(runs, "precision_recall"):
        first = next(iter(curves.values()))
        prevalence = number(first["positives"] / first["stays"])
        alt = f"Precision-recall curve with {_areas(curves, 'AUPRC')}; the prevalence is {prevalence}."
        pictures.append(Picture(name, f"Precision and recall{title}", "", alt, plots.precision_recall(curves)))
    return Section("discrimination", "Discrimination", pictures=pictures) if pictures else None


def _areas(curves: Mapping[str, Plain], area: str) -> str:
    return "; ".join(f"{name} " * bool(name) + f"{area} {number(each[area.lower()])}" for name, each in curves.items())


def calibration_section(runs: Runs) -> Section | None:
    """Reliability of the probabilities, with counts, and their distribution."""
    pictures, tables, threshold = [], [], _threshold(next(iter(runs.values())))
    for name, title, curves in _each_panel(runs, "calibration"):
        first, by_name = next(iter(curves.values())), _calibration_lines(curves)
        alt = "; ".join(
            f"{line} " * (len(curves) > 1)
            + f"predicted {number(each['predicted'])}, observed {number(each['observed'])}"
            for line, groups in list(by_name.items())[-len(curves) :]
            for each in groups
        )
        caption = "Groups of about equally many stays; below, how many stays have each risk" + (
            "." if len(curves) == 1 else f", of {next(iter(curves))}."
        )
        counts = np.add(first["risk"]["of_label_0"], first["risk"]["of_label_1"]).tolist()
        alt = f"Predicted risk and observed share by group of stays: {alt}."
        pictures.append(Picture(name, f"Calibration{title}", caption, alt, plots.calibration(by_name, counts)))
        if len(runs) == 1:
            pictures += [_risks(outcome, each, threshold) for outcome, each in curves.items()]
            tables += [_calibration_table(outcome, each) for outcome, each in curves.items()]
    return Section("calibration", "Calibration and predicted risk", (), pictures, (), tables) if pictures else None


def _calibration_lines(curves: Mapping[str, Plain]) -> dict[str, list[Plain]]:
    """Of a single line each kind of risk, of several the one that is used."""
    if len(curves) == 1:
        return dict(next(iter(curves.values()))["calibration"])
    return {name: list(each["calibration"].values())[-1] for name, each in curves.items()}


def _risks(outcome: str, curve: Plain, threshold: float | None) -> Picture:
    medians = [number(each) for each in curve["risk"]["medians"]]
    return Picture(
        "risk_histogram" + f"_{as_name(outcome)}" * bool(outcome),
        "Predicted risk by label" + f": {outcome}" * bool(outcome),
        "",
        f"Histogram of the predicted risk. Its median is {medians[0]} among stays of label 0 and {medians[1]} among "
        "those of label 1.",
        plots.risk_histogram(curve["risk"], threshold),
    )


def _calibration_table(outcome: str, curve: Plain) -> Table:
    kind, groups = list(curve["calibration"].items())[-1]
    head = ("mean predicted risk", "observed share", "95 % interval", "positives", "stays")
    rows = [
        [number(each["predicted"]), number(each["observed"]), interval(each), f"{each['positives']:,}",
         f"{each['stays']:,}"]
        for each in groups
    ]  # fmt: skip
    return Table(f"Calibration by group of stays, {f'{outcome}, ' * bool(outcome)}{kind}", head, rows)


def numbers_section(runs: Runs) -> Section | None:
    """Predicted and observed numbers of a task that predicts numbers, a picture for each column."""
    pictures, tables = [], []
    columns: dict[str, dict[str, list[Plain]]] = {}
    for run, of in runs.items():
        for each in (of.evaluation or {}).get("curves") or ():
            if "column" in each:
                columns.setdefault(each["column"], {})[run] = each["groups"]
    head = ("mean predicted", "mean observed", "10 % observed less than", "10 % observed more than", "stays")
    for column, by_run in list(columns.items())[:MOST_OUTCOMES]:
        caption = "Groups of about equally many stays by what was predicted: the mean, and where 80 % of the stays are."
        rows = [
            [*(number(each[key]) for key in ("predicted", "observed", "low", "high")), f"{each['stays']:,}"]
            for each in next(iter(by_run.values()))
        ]
        alt = "; ".join(f"predicted {row[0]}, observed {row[1]}" for row in rows)
        drawn = plots.number_groups(by_run)
        pictures.append(Picture(f"numbers_{as_name(column)}", f"{column}: observed by predicted", caption, alt, drawn))
        tables += [Table(f"{column}: observed by predicted", head, rows)] * (len(runs) == 1)
    title = "Predicted and observed numbers"
    return Section("numbers", title, (), pictures, (), tables) if pictures else None


def decision_section(runs: Runs) -> Section | None:
    """Net benefit by threshold, and the confusion matrix at the chosen one."""
    pictures, listed, tables = [], [], []
    several = len(runs) > 1
    for _, _, curves in _each_panel(runs, ""):
        panels = [curves] if several else [{name: each} for name, each in curves.items()]
        for lines in panels:
            (name, first), *_ = lines.items()
            outcome, benefit = name * (not several), first["net_benefit"]
            pictures.append(
                Picture(
                    "decision_curve" + f"_{as_name(outcome or first['outcome'])}" * (len(panels) > 1 or bool(outcome)),
                    "Decision curve" + f": {outcome}" * bool(outcome),
                    "True positives minus false positives, these weighted by the odds of the threshold, for each stay "
                    "(Vickers and Elkin, 2006). A model is useful where its line is the highest.",
                    f"The net benefit of {name if several else 'this model'} is above that of acting on every stay and "
                    f"on none {_useful(benefit)}.",
                    plots.decision_curve({line * several: each["net_benefit"] for line, each in lines.items()}),
                )
            )
            listed += [] if several else [_net_benefits(outcome, benefit)]
            if not several and "at_threshold" in first:
                tables += _confusion_tables(next(iter(runs.values())), first)
    return Section("decisions", "Decisions", (), pictures, tables, listed) if pictures else None


def _useful(benefit: Mapping[str, Sequence[float]]) -> str:
    rows = zip(benefit["threshold"], benefit["model"], benefit["every_stay"], strict=True)
    useful = [threshold for threshold, own, everyone in rows if own > max(everyone, 0)]
    return f"between {percent(min(useful))} and {percent(max(useful))}" if useful else "at no threshold"


def _net_benefits(outcome: str, benefit: Mapping[str, Sequence[float]]) -> Table:
    rows = zip(benefit["threshold"], benefit["model"], benefit["every_stay"], strict=True)
    listed = [[percent(t), number(own, 4), number(all_, 4)] for t, own, all_ in rows if t in THRESHOLDS_LISTED]
    return Table("Net benefit" + f": {outcome}" * bool(outcome), ("threshold", "this model", "every stay"), listed)


def _confusion_tables(run: Run, curve: Plain) -> list[Table]:
    """Counts at the threshold, and the shares that follow from them."""
    counts, threshold, metrics = curve["at_threshold"], _threshold(run), (run.evaluation or {})["figures"]
    kind = "calibrated probability" if "calibrated" in curve["calibration"] else "probability"
    rows = [
        ["label 1", f"{counts['true_positive']:,}\ntrue positive", f"{counts['false_negative']:,}\nfalse negative"],
        ["label 0", f"{counts['false_positive']:,}\nfalse positive", f"{counts['true_negative']:,}\ntrue negative"],
    ]
    caption = f"Calls at {kind} {number(threshold)} or more, the threshold chosen on the validation split"
    names = [name for name in ("sensitivity", "specificity", "ppv", "npv") if value_of(metrics.get(name)) is not None]
    shares = Table(
        "At this threshold", ("share", "with 95 % interval"), [[metric_name(n), stacked(metrics[n])] for n in names]
    )
    return [Table(caption, ("", "called positive", "called negative"), rows), *[shares] * bool(names)]


# ------------------------------------------------------------------ several runs on the same stays


def differences_section(runs: Runs) -> Section | None:
    """The first run minus each other one, for the runs of one binary label with predictions for the same stays."""
    scored = {name: run.stays for name, run in runs.items() if run.stays is not None}
    splits = [each.split for each in scored.values()]
    scored = {name: each for name, each in scored.items() if each.split == max(splits, key=splits.count)}
    if len(scored) < 2:
        return None
    (first, one), *others = scored.items()
    found, apart = {}, []
    for name, other in others:
        pair = paired_difference(one, other, _subjects(runs[first], one))
        if pair is None:
            apart.append(name)
        else:
            found[name] = pair
    text = [f"On the {one.split} split, {first} minus each other run; 0 is no difference."] if found else []
    if apart:
        text.append(f"Not paired with {first}, because the stays or labels are not the same: {', '.join(apart)}.")
    head = (f"{first} minus", "AUROC", "AUPRC", "stays")
    rows = [[name, *(stacked(each[key]) for key in RANKING), f"{len(one.label):,}"] for name, each in found.items()]
    unit = "stays" if _subjects(runs[first], one) is None else "patients"
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
) -> dict[str, Metric] | None:
    """AUROC and AUPRC of `one` minus those of `other`; None unless both have the same stays of both classes.

    `subject` [n] is the patient of each stay of `one`, over whom the intervals are; None: over stays.
    """
    order, theirs = np.argsort(one.stay_id), np.argsort(other.stay_id)
    label = one.label[order]
    same = [np.array_equal(getattr(one, key)[order], getattr(other, key)[theirs]) for key in ("stay_id", "label")]
    if not all(same) or not 0 < label.sum() < len(label):
        return None
    by_stay = None if subject is None else subject[order]
    found = difference(Scores(label, one.logit[order], subject=by_stay), Scores(label, other.logit[theirs]))
    return {name: each.as_plain() for name, each in found.items()}


def _differences(first: str, found: Mapping[str, Mapping[str, Metric]], name: str) -> Picture:
    rows = [plots.Row(run, of_run[name]) for run, of_run in found.items()]
    alt = "; ".join(f"{row.label} {with_interval(row.metric)}" for row in rows)
    title, caption = f"Difference in {metric_name(name)}", f"{first} minus each run, with 95 % intervals; dotted: none."
    drawn = plots.intervals(rows, f"difference of {metric_name(name)}", dotted=0)
    return Picture(f"difference_{name}", title, caption, f"{title}: {first} minus {alt}.", drawn)


# ------------------------------------------------------------------ one stay


def one_stay_section(run: Run) -> Section | None:
    """The risk of one stay after each of its sets, over its events."""
    if run.every_set is None or run.stays is None:
        return None
    stay = typical_stay(run.stays, np.unique(run.every_set.stay_id))
    if stay is None:
        return None
    own = run.every_set.stay_id == stay
    order = np.argsort(run.every_set.minute[own], kind="stable")
    hours, risk = run.every_set.minute[own][order] / 60, run.every_set.probability[own][order]
    events = None if run.cohort is None else events_of(run.cohort, run.stays.split, stay)
    picture = Picture(
        "one_stay",
        "One stay",
        f"The positive stay of median final risk in the {run.stays.split} split. Each step is the prediction from all "
        "events so far, before calibration; the head was trained on whole stays only."
        + (f" Below, the {len(events[3])} variables with most events." if events is not None else ""),
        f"Predicted risk of one stay: {number(risk[0])} after the first set, {number(risk[-1])} after the last one "
        f"at hour {hours[-1]:.1f}, between {number(risk.min())} and {number(risk.max())}.",
        plots.risk_over_time(hours, risk, events),
        wide=True,
    )
    return Section("one-stay", "One stay over time", pictures=[picture])


def typical_stay(stays: ScoredStays, among: np.ndarray) -> int | None:
    """The positive stay of median risk among those of `among`, so that the example is not a chosen success."""
    candidates = np.flatnonzero((stays.label == 1) & np.isin(stays.stay_id, among))
    if not len(candidates):
        return None
    by_risk = candidates[np.lexsort((stays.stay_id[candidates], stays.risk[candidates]))]
    return int(stays.stay_id[by_risk[(len(by_risk) - 1) // 2]])


def events_of(cohort: Cohort, split_name: str, stay: int) -> tuple[Floats, np.ndarray, Floats, list[str]] | None:
    """(hours, row, z-score, names of the rows) of the most frequent variables of a stay."""
    split = cohort.splits.get(split_name)
    if split is None or stay not in split.stay_id:
        return None
    at = int(np.flatnonzero(split.stay_id == stay)[0])
    first, last = split.stay_offset[at], split.stay_offset[at + 1]
    sets_of_events = np.repeat(np.arange(first, last), np.diff(split.set_offset[first : last + 1]))
    events = slice(split.set_offset[first], split.set_offset[last])
    variable = np.asarray(split.variable[events])
    counts = np.bincount(variable, minlength=len(cohort.vocabulary))
    shown = [int(each) for each in np.argsort(-counts, kind="stable")[:VARIABLES_SHOWN] if counts[each]]
    row_of = np.full(len(cohort.vocabulary), -1)
    row_of[shown] = np.arange(len(shown))
    kept = row_of[variable] >= 0
    hours = split.minute[sets_of_events][kept] / 60
    z_scores = cohort.variables.z_scores(variable, split.value[events])
    return hours, row_of[variable[kept]], z_scores[kept], [cohort.vocabulary[i] for i in shown]
