"""The evaluation of a checkpoint on one split: the content of evaluation.json, and its table.

Legend: n labelled stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from seqsetvae.evaluation.calibration import Calibration
from seqsetvae.evaluation.curves import outcome_curves
from seqsetvae.evaluation.findings import drawn
from seqsetvae.evaluation.statistics import FIGURES, RESAMPLES, Interval, Scores, bootstrap, difference, shares_subjects
from seqsetvae.evaluation.verdict import IN_WORDS, said_first, verdict

FEW_POSITIVES = 50  # below this the figures are too uncertain for a conclusion, and so are the intervals themselves
RANKING = ("auroc", "auprc")
PERFECT = {"calibration_slope": 1.0, "calibration_intercept": 0.0}  # shown in the table

Floats = NDArray[np.float64]
Plain = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subgroup:
    """Stays that share a value, or a quartile, of a column."""

    column: str
    group: str
    stays: NDArray[np.bool_]  # [n]


@dataclass(frozen=True, eq=False)
class Landmark:
    """Predictions from only the events of the first hours, for the stays that have any."""

    hours: float
    label: NDArray[np.int64]
    logit: Floats
    subject: NDArray[np.int64] | None = None  # the patient of each stay; None: each stay is of another


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """What is evaluated: the predictions of one checkpoint for the labelled stays of a split."""

    checkpoint: str
    split: str
    label_name: str
    label: NDArray[np.int64]  # [n] 0 or 1, both classes occur
    logit: Floats  # [n]
    subject: NDArray[np.int64] | None = None  # [n] the patient of each stay; None: each stay is of another
    calibration: Calibration | None = None
    is_selected: bool = True  # the checkpoint was chosen by the validation split, not simply the last epoch

    def scores(self, other: Landmark | None = None, stays: NDArray[np.bool_] | slice = slice(None)) -> Scores:
        """These predictions, of all or of some `stays`, or `other` ones, with this calibration and threshold."""
        of = other or self
        label, logit = of.label[stays], of.logit[stays]
        subject = None if of.subject is None else of.subject[stays]
        if self.calibration is None:
            return Scores(label, logit, subject=subject)
        return Scores(label, logit, self.calibration.threshold_logit, self.calibration.calibrated_logit(logit), subject)


def evaluation(
    evaluated: Evaluated,
    *,
    baselines: Mapping[str, Floats] | None = None,
    compared: Mapping[str, Scores] | None = None,
    subgroups: Sequence[Subgroup] = (),
    landmarks: Sequence[Landmark] = (),
    cautions: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Plain:
    """The content of evaluation.json. A figure that is not defined is null; differences are the model minus the other.

    Args:
        evaluated: the checkpoint's predictions.
        baselines: logits [n] of other models for the same stays, by name; they have no calibration and no threshold.
        compared: predictions of other checkpoints for the same stays, by name; they become baselines too.
        subgroups: of the same stays.
        landmarks: predictions of the checkpoint from the first hours.
        cautions: what else a reader must know.
        resamples, seed: of the bootstrap.
    """
    scores, label = evaluated.scores(), evaluated.label
    of_baselines = {name: Scores(label, logit, subject=evaluated.subject) for name, logit in (baselines or {}).items()}
    others = of_baselines | dict(compared or {})
    found = _figures(scores, resamples, seed)
    compared_with = {name: _compared(scores, other, resamples, seed) for name, other in others.items()}
    content: Plain = {
        IN_WORDS: verdict({"figures": found, "baselines": compared_with, "split": evaluated.split}),
        "checkpoint": evaluated.checkpoint,
        "split": evaluated.split,
        "stays": len(label),
        "positives": int(label.sum()),
        **resampled_unit(evaluated.subject, len(label)),
        "label_name": evaluated.label_name,
        "threshold": None if evaluated.calibration is None else evaluated.calibration.threshold,
        "figures": found,
        "prevalence": float(label.mean()),
        "cautions": [*cautions, *_cautions(evaluated, found)],
        "baselines": compared_with,
        "subgroups": [_subgroup(evaluated, each, resamples, seed) for each in subgroups],
        "landmarks": [_landmark(evaluated, each, resamples, seed) for each in landmarks],
    }
    return content | drawn(content, _curves(scores, evaluated))


def _curves(scores: Scores, evaluated: Evaluated) -> list[Plain]:
    risks = {"as predicted": expit(scores.logit)}
    if scores.calibrated_logit is not None:
        risks["calibrated"] = expit(scores.calibrated_logit)
    return outcome_curves(evaluated.label_name, scores.label, scores.logit, risks, scores.threshold)


def resampled_unit(subject: NDArray[np.int64] | None, stays: int) -> Plain:
    """What the intervals are over: patients where several stays are of one, else stays."""
    if subject is None or not shares_subjects(subject):
        return {"resampled": "stays", "patients": stays}
    return {"resampled": "patients", "patients": len(np.unique(subject))}


def _figures(scores: Scores, resamples: int, seed: int) -> dict[str, dict[str, float | None]]:
    """All figures; only undefined ones where there are not stays of both classes."""
    if not _has_both_classes(scores):
        return {name: Interval(None).as_plain() for name in FIGURES}
    found = bootstrap(scores.label, scores.figures, resamples, seed, scores.subject)
    return {name: found[name].as_plain() for name in FIGURES}


def _has_both_classes(scores: Scores) -> bool:
    return 0 < scores.label.sum() < len(scores.label)


def _compared(scores: Scores, other: Scores, resamples: int, seed: int) -> Plain:
    paired = dict.fromkeys(RANKING, Interval(None))
    if _has_both_classes(scores):
        paired = difference(scores, other, resamples, seed)
    return {
        "figures": _figures(other, resamples, seed),
        "difference": {name: interval.as_plain() for name, interval in paired.items()},
    }


def _subgroup(evaluated: Evaluated, subgroup: Subgroup, resamples: int, seed: int) -> Plain:
    scores = evaluated.scores(stays=subgroup.stays)
    counts = {"stays": len(scores.label), "positives": int(scores.label.sum())}
    figures = _figures(scores, resamples, seed)
    return {"column": subgroup.column, "group": subgroup.group, **counts, "figures": figures}


def _landmark(evaluated: Evaluated, landmark: Landmark, resamples: int, seed: int) -> Plain:
    counts = {"stays": len(landmark.label), "positives": int(landmark.label.sum())}
    figures = _figures(evaluated.scores(landmark), resamples, seed)
    return {"hours": landmark.hours, **counts, "figures": figures}


def _cautions(evaluated: Evaluated, figures: Plain) -> list[str]:
    """What a reader must know before believing the figures."""
    positives, stays, calibration = int(evaluated.label.sum()), len(evaluated.label), evaluated.calibration
    fewer, of_class = min((positives, "positive"), (stays - positives, "negative"))
    low = figures["auroc"]["low"]
    same_stays = calibration is not None and (calibration.split, calibration.stays, calibration.positives) == (
        evaluated.split,
        stays,
        positives,
    )
    rules = [
        (
            fewer < FEW_POSITIVES,
            f"Only {fewer:,} of {stays:,} stays are {of_class}: with fewer than {FEW_POSITIVES} stays of a class the "
            "figures are uncertain and their intervals themselves unreliable. --mode crossvalidate tests every "
            "stay once.",
        ),
        (
            low is not None and low <= 0.5,
            f"The 95 % interval of the AUROC includes 0.5: on these {stays:,} stays the model is not clearly better "
            "than chance.",
        ),
        (evaluated.split == "train", "These stays were trained on: on new stays all figures will be worse."),
        (
            evaluated.split == "valid" and evaluated.is_selected,
            "The validation split chose the checkpoint: on new stays the figures will be somewhat worse.",
        ),
        (
            same_stays,
            "Calibration and threshold were fitted on these stays: calibration slope and intercept, Brier score, ECE "
            "and the figures at the threshold will be worse on new stays.",
        ),
        (
            calibration is None,
            "There is no calibration and no threshold for this checkpoint: Brier score, ECE, calibration slope and "
            "intercept are those of the uncalibrated probability.",
        ),
        (
            calibration is not None and not calibration.is_fitted,
            "On the validation split higher logits do not mean more positives, so probabilities are not calibrated.",
        ),
    ]
    return [text for applies, text in rules if applies]


# ------------------------------------------------------------------ the table


def table(content: Plain) -> str:
    """What is printed of an evaluation."""
    stays, positives, prevalence = content["stays"], content["positives"], content["prevalence"]
    of = f" of {content['patients']:,} patients" * (content["resampled"] == "patients")
    lines = [
        *said_first(content),
        content["checkpoint"],
        f"  split {content['split']}: {stays:,} stays{of}, {positives:,} positive (prevalence {prevalence:.1%}); label "
        f"{content['label_name']}",
        "",
        f"  {'figure':<24}{'value':>8}   95 % interval (over {content['resampled']})",
        *(_line(title, content["figures"][name], name) for name, title in FIGURES.items()),
    ]
    if content["threshold"] is not None:
        lines.append(
            f"  The last four are at the threshold {content['threshold']:.3f}, chosen on the validation split."
        )
    for name, other in content["baselines"].items():
        lines += ["", f"  compared with {name}"]
        for figure in (*RANKING, "brier"):
            lines.append(_line(FIGURES[figure], other["figures"][figure]))
            if figure in other["difference"]:
                lines.append(_line("  difference", other["difference"][figure]))
    lines += _groups("subgroup", [(f"{row['column']} {row['group']}", row) for row in content["subgroups"]])
    lines += _groups("first hours", [(f"{row['hours']:g} h", row) for row in content["landmarks"]])
    return "\n".join(lines)


def _line(title: str, figure: dict[str, float | None], name: str = "") -> str:
    perfect = f"   (perfect: {PERFECT[name]:g})" if name in PERFECT else ""
    return f"  {title:<24}{_number(figure['value']):>8}   {_interval(figure)}{perfect}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(figure: dict[str, float | None]) -> str:
    low, high = figure["low"], figure["high"]
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _groups(title: str, rows: list[tuple[str, Plain]]) -> list[str]:
    """A table with one row for each subgroup or landmark."""
    if not rows:
        return []
    width = max(len(title), *(len(name) for name, _ in rows)) + 2
    head = f"  {title:<{width}}{'stays':>8}{'positive':>10}   {'AUROC':<26}{'AUPRC':<26}"
    lines = ["", head.rstrip()]
    for name, row in rows:
        cells = [f"{_number(row['figures'][key]['value'])} ({_interval(row['figures'][key])})" for key in RANKING]
        lines.append(f"  {name:<{width}}{row['stays']:>8,}{row['positives']:>10,}   {cells[0]:<26}{cells[1]}".rstrip())
    return lines
