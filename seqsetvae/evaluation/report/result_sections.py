"""Sections about how good the predictions are: curves, calibration, decisions, subgroups, landmarks, one stay."""

from __future__ import annotations

import numpy as np

from seqsetvae.cohort.format import Cohort
from seqsetvae.evaluation.report import figures, interval_figures, numbers
from seqsetvae.evaluation.report.content import Picture, Section, Table
from seqsetvae.evaluation.report.evaluation_file import Evaluation, Group
from seqsetvae.evaluation.report.read import Run
from seqsetvae.evaluation.report.tables import Floats, ScoredStays
from seqsetvae.evaluation.report.wording import (
    BEST_VALUE,
    MODEL,
    figure_name,
    interval,
    model_name,
    number,
    percent,
    stacked,
    with_interval,
)

VARIABLES_SHOWN = 12  # of one stay: those with most events
THRESHOLDS_LISTED = (0.05, 0.1, 0.2, 0.3, 0.5)


def baselines_table(evaluation: Evaluation) -> Table:
    """This model and the baselines, a row each."""
    head = ("model", "AUROC", "AUPRC", "Brier score", "AUROC minus the baseline's", "AUPRC minus the baseline's")
    rows = [[MODEL, *(stacked(evaluation.figures.get(name)) for name in ("auroc", "auprc", "brier")), "–", "–"]]
    for each in evaluation.baselines:
        own = [stacked(each.figures.get(name)) for name in ("auroc", "auprc", "brier")]
        against = [stacked(each.difference.get(name)) for name in ("auroc", "auprc")]
        rows.append([model_name(each.name), *own, *against])
    title = f"This model and the baselines on the same stays, with 95 % intervals over {evaluation.resampled}"
    return Table(title, head, rows)


def baseline_pictures(evaluation: Evaluation) -> list[Picture]:
    """AUROC and AUPRC of this model and its rivals, and chance; none without rivals."""
    if not evaluation.rivals:
        return []
    chance = {"auroc": 0.5, "auprc": evaluation.prevalence}
    return [
        Picture(
            f"baselines_{name}",
            f"{figure_name(name)} beside the baselines",
            "With 95 % intervals; dotted: chance.",
            _baselines_alt(evaluation, name),
            interval_figures.against_baselines(evaluation, name, chance[name]),
        )
        for name in chance
        if name in evaluation.figures
    ]


def _baselines_alt(evaluation: Evaluation, name: str) -> str:
    models = {MODEL: evaluation.figures} | {model_name(each.name): each.figures for each in evaluation.rivals}
    return f"{figure_name(name)}: " + "; ".join(
        f"{model} {with_interval(own.get(name))}" for model, own in models.items()
    )


def figures_table(evaluation: Evaluation) -> Table:
    """Every figure of the evaluation."""
    rows = [
        [figure_name(name), number(each.value), interval(each), BEST_VALUE.get(name, "1")]
        for name, each in evaluation.figures.items()
    ]
    head = ("figure", "value", f"95 % interval over {evaluation.resampled}", "best value")
    return Table("All figures", head, rows)


def discrimination_section(run: Run) -> Section | None:
    """ROC and precision-recall curves."""
    stays = _drawable(run)
    if stays is None:
        return None
    roc, precision = numbers.roc(stays.label, stays.logit), numbers.precision_recall(stays.label, stays.logit)
    prevalence, threshold = stays.positives / len(stays.label), _threshold(run)
    points = {}
    if threshold is not None:
        counts = numbers.confusion(stays.label, stays.risk, threshold)
        sensitivity = counts.true_positive / stays.positives
        specificity = counts.true_negative / (len(stays.label) - stays.positives)
        points = {f"threshold {number(threshold)}": (1 - specificity, sensitivity)}
    pictures = [
        Picture("roc", "ROC", "", f"ROC curve with AUROC {number(roc.area)}.", figures.roc({"": roc}, points)),
        Picture(
            "precision_recall",
            "Precision and recall",
            "",
            f"Precision-recall curve with average precision {number(precision.area)}; the prevalence is "
            f"{number(prevalence)}.",
            figures.precision_recall({"": precision}, prevalence),
        ),
    ]
    return Section("discrimination", "Discrimination", pictures=pictures)


def _drawable(run: Run) -> ScoredStays | None:
    return run.stays if run.stays is not None and run.stays.has_both_classes else None


def _threshold(run: Run) -> float | None:
    return None if run.evaluation is None else run.evaluation.threshold


def calibration_section(run: Run) -> Section | None:
    """Reliability of the probabilities, with counts, and their distribution."""
    stays = _drawable(run)
    if stays is None:
        return None
    bins = {"as predicted": numbers.calibration_bins(stays.label, stays.probability)}
    if stays.calibrated is not None:
        bins["calibrated"] = numbers.calibration_bins(stays.label, stays.calibrated)
    shown = bins[list(bins)[-1]]
    rows = [
        [number(each.mean_risk), number(each.observed), f"{number(each.low)} to {number(each.high)}",
         f"{each.positives:,}", f"{each.stays:,}"]
        for each in shown
    ]  # fmt: skip
    head = ("mean predicted risk", "observed share", "95 % interval", "positives", "stays")
    alt = "; ".join(f"predicted {number(each.mean_risk)}, observed {number(each.observed)}" for each in shown)
    pictures = [
        Picture(
            "calibration",
            "Calibration",
            "Groups of about equally many stays; below, how many stays have each risk.",
            f"Predicted risk and observed share by group of stays: {alt}.",
            figures.calibration(bins, stays.risk),
        ),
        Picture(
            "risk_histogram",
            "Predicted risk by label",
            "",
            f"Histogram of the predicted risk. Its median is {number(_median(stays, 0))} among stays of label 0 and "
            f"{number(_median(stays, 1))} among those of label 1.",
            figures.risk_histogram(stays.label, stays.risk, _threshold(run)),
        ),
    ]
    table = Table(f"Calibration by group of stays, {list(bins)[-1]}", head, rows)
    return Section("calibration", "Calibration and predicted risk", pictures=pictures, folded=[table])


def _median(stays: ScoredStays, label: int) -> float:
    return float(np.median(stays.risk[stays.label == label]))


def decision_section(run: Run) -> Section | None:
    """Net benefit by threshold, and the confusion matrix at the chosen one."""
    stays = _drawable(run)
    if stays is None:
        return None
    thresholds = numbers.decision_thresholds(stays.positives / len(stays.label))
    model = numbers.net_benefit(stays.label, stays.risk, thresholds)
    treat_all = numbers.net_benefit(stays.label, np.ones_like(stays.risk), thresholds)
    useful = [t for t, own, everyone in zip(thresholds, model, treat_all, strict=True) if own > max(everyone, 0)]
    span = f"between {percent(min(useful))} and {percent(max(useful))}" if useful else "at no threshold"
    picture = Picture(
        "decision_curve",
        "Decision curve",
        "True positives minus false positives, these weighted by the odds of the threshold, for each stay (Vickers and "
        "Elkin, 2006). A model is useful where its line is the highest.",
        f"The net benefit of this model is above that of acting on every stay and on none {span}.",
        figures.decision_curve(thresholds, model, treat_all),
    )
    places = [round(100 * t) - 1 for t in THRESHOLDS_LISTED if t <= thresholds[-1]]
    rows = [[percent(thresholds[at]), number(model[at], 4), number(treat_all[at], 4)] for at in places]
    listed = Table("Net benefit", ("threshold", "this model", "every stay"), rows)
    threshold = _threshold(run)
    tables = [] if threshold is None else confusion_tables(run, stays, threshold)
    return Section("decisions", "Decisions", pictures=[picture], tables=tables, folded=[listed])


def confusion_tables(run: Run, stays: ScoredStays, threshold: float) -> list[Table]:
    """Counts at the threshold, and the shares that follow from them."""
    counts = numbers.confusion(stays.label, stays.risk, threshold)
    kind = "calibrated probability" if stays.calibrated is not None else "probability"
    rows = [
        ["label 1", f"{counts.true_positive:,}\ntrue positive", f"{counts.false_negative:,}\nfalse negative"],
        ["label 0", f"{counts.false_positive:,}\nfalse positive", f"{counts.true_negative:,}\ntrue negative"],
    ]
    caption = f"Calls at {kind} {number(threshold)} or more, the threshold chosen on the validation split"
    tables = [Table(caption, ("", "called positive", "called negative"), rows)]
    assert run.evaluation is not None
    shares = [
        [figure_name(name), stacked(run.evaluation.figures[name])]
        for name in ("sensitivity", "specificity", "ppv", "npv")
        if name in run.evaluation.figures
    ]
    return [*tables, Table("At this threshold", ("share", "with 95 % interval"), shares)] if shares else tables


def subgroup_section(run: Run) -> Section | None:
    """Figures by subgroup."""
    if run.evaluation is None or not run.evaluation.subgroups:
        return None
    groups = run.evaluation.subgroups
    drawn = [each for each in groups if "auroc" in each.figures]
    caption = (
        "With 95 % intervals and the number of positives of stays; dashed: all stays. A hollow marker stands for fewer "
        f"than {interval_figures.FEW} positives."
    )
    alt = "; ".join(f"{each.column} {each.name} {with_interval(each.figures['auroc'])}" for each in drawn)
    picture = Picture(
        "subgroups",
        "AUROC by subgroup",
        caption,
        f"AUROC by subgroup: {alt}.",
        interval_figures.forest(groups, run.evaluation.figures.get("auroc")),
    )
    table = _groups_table("Subgroups", "subgroup", [f"{each.column}: {each.name}" for each in groups], groups)
    text = ["Intervals are not adjusted for the number of subgroups: among 20, one is expected to exclude the truth."]
    return Section("subgroups", "Subgroups", text, [picture] if drawn else [], [table])


def landmark_section(run: Run) -> Section | None:
    """Figures with only the first hours of each stay."""
    if run.evaluation is None or not run.evaluation.landmarks:
        return None
    groups = run.evaluation.landmarks
    alt = "; ".join(f"{each.name} h: AUROC {with_interval(each.figures.get('auroc'))}" for each in groups)
    picture = Picture(
        "landmarks",
        "Figures by hours of data",
        "What the model reaches with only the first hours of each stay.",
        f"Figures with the first hours of each stay: {alt}.",
        figures.landmarks(groups),
    )
    table = _groups_table("Landmarks", "hours of data", [each.name for each in groups], groups)
    return Section("landmarks", "Early predictions", pictures=[picture], tables=[table])


def _groups_table(caption: str, heading: str, names: list[str], groups: tuple[Group, ...]) -> Table:
    rows = []
    for name, each in zip(names, groups, strict=True):
        auroc, *others = (stacked(each.figures.get(one)) for one in ("auroc", "auprc", "brier"))
        rows.append([name, auroc, f"{each.positives:,} of {each.stays:,}", *others])
    return Table(caption, (heading, "AUROC", "positive stays", "AUPRC", "Brier score"), rows)


def one_stay_section(run: Run) -> Section | None:
    """The risk of one stay after each of its sets, over its events."""
    if run.every_set is None or run.stays is None:
        return None
    there = np.unique(run.every_set.stay_id).tolist()
    stay = numbers.typical_stay(run.stays.stay_id, run.stays.label, run.stays.risk, there)
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
        figures.risk_over_time(hours, risk, events),
        wide=True,
    )
    return Section("one-stay", "One stay over time", pictures=[picture])


def events_of(cohort: Cohort, split_name: str, stay: int) -> tuple[Floats, np.ndarray, Floats, list[str]] | None:
    """(hours, row, z-score, names of the rows) of the most frequent variables of a stay."""
    if split_name not in cohort.splits:
        return None
    split = cohort.split(split_name)
    found = np.flatnonzero(split.stay_id == stay)
    if not len(found):
        return None
    first, last = split.stay_offset[found[0]], split.stay_offset[found[0] + 1]
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
