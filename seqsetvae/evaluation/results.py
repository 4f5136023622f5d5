"""The evaluation of a checkpoint on one split: the content of evaluation.json, and its table. One for all tasks.

Legend: n labelled stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.evaluation.findings import IN_WORDS, findings_of, hidden_words, verdict, verdict_lines
from seqsetvae.evaluation.groups import SMALLEST, Subgroup, by_group
from seqsetvae.evaluation.statistics import RESAMPLES, Floats, Interval, MetricValues, bootstrap, shares_subjects
from seqsetvae.system.errors import LEVELS
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.scores import AT_THRESHOLD, BINARY_METRICS, title_of

if TYPE_CHECKING:  # it imports torch, and results of cross-validation are read without it
    from seqsetvae.evaluation.predictions import Predictions

Plain = dict[str, Any]


# What evaluation.json holds (system/schema.py).
_METRICS = {"*": {"value?": float, "low?": float, "high?": float}}
_GROUP = {"stays": float, "positives?": float, "figures": _METRICS}
_LINE = {"x": [float], "y": [float]}
_MEANS = dict.fromkeys(("stays", "predicted", "observed", "low", "high"), float)
_BENEFIT = {"threshold": [float], "model": [float], "every_stay": [float]}
_OUTCOME = {  # of a label that is 0 or 1
    "outcome": str,
    **dict.fromkeys(("stays", "positives", "auroc", "auprc"), float),
    **dict.fromkeys(("roc", "precision_recall"), _LINE),
    "calibration": {"*": [{**_MEANS, "positives": float}]},
    "risk": {"of_label_0": [float], "of_label_1": [float], "medians": [float]},
    "net_benefit": _BENEFIT,
    "at_threshold?": dict.fromkeys(("true_positive", "false_positive", "true_negative", "false_negative"), float),
}
_NUMBER = {"column": str, "stays": float, "groups": [_MEANS]}  # of a column of numbers
_REASON = {"variable": str, "words": str, "contribution": float}
_EXPLANATION = {
    "of": str,
    **dict.fromkeys(("stays", "base", "gap"), float),
    "variables": [
        {"variable": str, "summary": str, "mean_absolute": float, "levels": {"*": {"stays": float, "mean": float}}}
    ],
    "deletion?": dict.fromkeys(("stays", "variables", "largest", "random", "share"), float),
    "courses": [
        {
            **{"name": str, "label?": float, "hours": [float], "score": [float], "risk": [float], "base": [float]},
            **{"variables": {"*": [float]}, "moved": [[_REASON]], "reasons": [_REASON]},
        }
    ],
}
_OF_LABELS = {"stays": float, "positives?": float, "prevalence?": float}
_POOLED = {
    "*": dict.fromkeys(("value", "low", "high", "tau", "prediction_low", "prediction_high", "sites"), float),
}
_EXTERNAL = {  # of a cohort that is not that of the training
    "name": str,
    **_OF_LABELS,
    "primary": [str],
    "resampled": str,
    "coverage": {
        **dict.fromkeys(("variables", "of_variables", "events", "events_read", "share_of_training_events?"), float),
        "missing": [str],
    },
    "drift": [str],
    "calibration?": str,
    "figures": _METRICS,
    "curves": [lambda curve: _OUTCOME if "outcome" in curve else _NUMBER],
    "recalibration": {
        **dict.fromkeys(("reason?", "part?", "chosen?", "saved?"), str),
        **dict.fromkeys(("seed?", "p_slope?"), float),
        "fitted?": _OF_LABELS,
        "reported?": _OF_LABELS,
        "kinds?": [
            {
                **{"kind": str, "slope?": float, "intercept?": float, "figures": _METRICS},
                **{"calibration": [{**_MEANS, "positives": float}], "net_benefit": _BENEFIT},
            }
        ],
    },
    "sites?": {
        **{"by": str, "rows": [{"name": str, **_OF_LABELS, "figures": _METRICS}]},
        **{"left_out": [str], "pooled": _POOLED},
    },
    "findings": [{"level": LEVELS, "text": str, "action?": str}],
}
_OTHERS = {"external?": [_EXTERNAL], "external_pooled?": _POOLED}
_ALONE = {"checkpoint": str, "label_name": str, **_OTHERS}  # of other cohorts alone
_OF_SPLIT = {
    **dict.fromkeys(("checkpoint", "split", "label_name", "resampled?", "verdict?"), str),
    **dict.fromkeys(("stays", "positives?", "prevalence?", "threshold?"), float),
    "cautions?": [str],  # of earlier versions
    "primary?": [str],
    "figures": _METRICS,
    "findings?": [{"level": LEVELS, "text": str, "action?": str}],
    "baselines?": {"*": {"figures": _METRICS, "difference?": _METRICS}},
    "members?": {"*": {"weight": float, "figures": _METRICS, "difference": _METRICS}},
    "subgroups?": [{"column": str, "group": object, **_GROUP, "difference?": _METRICS}],
    "subgroup_columns?": [
        {
            **{"column": str, "smallest_group": float, "hidden": [str], "shown": bool, "reference?": str},
            "tests": {"*": {"p?": float, "holm?": float}},
        }
    ],
    "landmarks?": [{"hours": float, **_GROUP}],
    "explanation?": _EXPLANATION,
    "decision?": {"threshold_for": str, "words": str, "admissions_per_day?": float, "figures": _METRICS},
    "abstention?": {"counts": {"*": float}, "figures": _METRICS},
    "curves?": [lambda curve: _OUTCOME if "outcome" in curve else _NUMBER],
    **_OTHERS,
}


def evaluation_schema(content: Plain) -> Plain:
    """Schema of an evaluation of a split, perhaps with other cohorts, or of other cohorts alone."""
    return _ALONE if "external" in content and "figures" not in content else _OF_SPLIT


def evaluation(
    evaluated: Predictions,
    checkpoint: str,
    *,
    others: Mapping[str, Predictions] | None = None,
    members: Mapping[str, Predictions] | None = None,
    weights: Mapping[str, float] | None = None,
    subgroups: Sequence[Subgroup] = (),
    smallest_group: int = SMALLEST,
    landmarks: Mapping[float, Predictions] | None = None,
    cautions: Sequence[str] = (),
    is_selected: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Plain:
    """The content of evaluation.json. A metric that is not defined is null; differences are the model minus the other.

    Args:
        evaluated: predictions of the checkpoint for the labelled stays of a split.
        checkpoint: its name.
        others: predictions of baselines and other checkpoints for the same stays, by name.
        members, weights: of an average, the predictions of each member for the same stays, and its weight.
        subgroups: of the same stays.
        smallest_group: stays, positives and negatives of a subgroup that is shown, at least.
        landmarks: predictions of the checkpoint from the first hours, by hour, for the stays that have any.
        cautions: what else a reader must know.
        is_selected: the checkpoint was chosen by the validation split, not simply the last epoch.
        resamples, seed: of the bootstrap.
    """
    task, spec = TASKS[evaluated.spec.task], evaluated.spec
    metrics = metrics_with_intervals(evaluated, resamples, seed)

    def group(stays: Predictions) -> Plain:
        undefined = dict.fromkeys(metrics, Interval(None).as_plain())
        own = metrics_with_intervals(stays, resamples, seed) if len(stays) else undefined
        return {"stays": len(stays), **task.counts(stays.target), "figures": own}

    def compared(other: Predictions) -> Plain:
        difference = _differences(evaluated, other, resamples, seed)
        return {"figures": metrics_with_intervals(other, resamples, seed), "difference": difference}

    baselines = {name: compared(other) for name, other in (others or {}).items()}
    averaged = {name: {"weight": (weights or {})[name], **compared(member)} for name, member in (members or {}).items()}
    known = (~np.isnan(evaluated.target)).sum(axis=0).tolist()
    content: Plain = {
        "task": spec.task,
        "checkpoint": checkpoint,
        "split": evaluated.split,
        "stays": len(evaluated),
        "labels": dict(zip(spec.names, known, strict=True)),
        **task.counts(evaluated.target),
        **resampled_unit(evaluated.subject, len(evaluated)),
        "label_name": spec.title,
        "threshold": None if evaluated.calibration is None else evaluated.calibration.threshold,
        "primary": list(task.primary(spec)),
        "figures": metrics,
        **_decisions(evaluated, resamples, seed),
        "baselines": baselines,
        "members": averaged,
        **by_group(evaluated, subgroups, smallest_group, resamples, seed),
        "landmarks": [{"hours": hours, **group(early)} for hours, early in (landmarks or {}).items()],
    }
    curves = {"curves": task.curves(spec, evaluated.output, evaluated.target, evaluated.calibration)}
    texts = [*cautions, *_cautions(evaluated, is_selected)]
    findings = [each.as_plain() for each in findings_of(content | curves | {"cautions": texts})]
    return {IN_WORDS: verdict(content | curves), **content, "findings": findings, **curves}


def resampled_unit(subject: NDArray[np.int64] | None, stays: int) -> Plain:
    """What the intervals are over: patients where several stays are of one, else stays."""
    if subject is None or not shares_subjects(subject):
        return {"resampled": "stays", "patients": stays}
    return {"resampled": "patients", "patients": len(np.unique(subject))}


def metrics_with_intervals(predictions: Predictions, resamples: int, seed: int) -> Plain:
    """All metrics of the task, by name."""
    spec, output = predictions.spec, predictions.output
    metrics = TASKS[spec.task].weighted_metrics(spec, output, predictions.target, predictions.calibration)
    return intervals_of(predictions, metrics, resamples, seed)


def intervals_of(stays: Predictions, metrics: Callable[[Floats], MetricValues], resamples: int, seed: int) -> Plain:
    """Metrics with their intervals, over resamples in which the number of stays with the outcome varies, as it would.

    With a fixed number they are too narrow for what depends on the prevalence: of 800 stays, nominal 95 % intervals
    held the calibration intercept in 63 % and the Brier score in 74 %. Differences in ranking are not affected.
    """
    alike = np.zeros(len(stays), np.int64)
    intervals = bootstrap(alike, metrics, resamples, seed, stays.subject)
    return {name: interval.as_plain() for name, interval in intervals.items()}


def _decisions(predictions: Predictions, resamples: int, seed: int) -> Plain:
    """What the task decides by the threshold, and where it abstains; nothing for a task that decides nothing."""
    spec, task = predictions.spec, TASKS[predictions.spec.task]
    if not hasattr(task, "decisions"):
        return {}
    sections = task.decisions(spec, predictions.output, predictions.target, predictions.calibration)
    return {
        name: facts | {"figures": intervals_of(predictions, metrics, resamples, seed)}
        for name, (facts, metrics) in sections.items()
    }


def _differences(model: Predictions, other: Predictions, resamples: int, seed: int) -> Plain:
    """`model` minus `other` in the primary metrics, with paired intervals."""
    task = TASKS[model.spec.task]
    ours, theirs = (
        task.weighted_metrics(each.spec, each.output, model.target, each.calibration, only_primary=True)
        for each in (model, other)
    )

    def difference(weights: Floats) -> MetricValues:
        first, second = ours(weights), theirs(weights)
        return {name: first[name] - second[name] for name in task.primary(model.spec)}

    differences = bootstrap(task.strata(model.target), difference, resamples, seed, model.subject)
    return {name: interval.as_plain() for name, interval in differences.items()}


def _cautions(evaluated: Predictions, is_selected: bool) -> list[str]:
    """What a reader must know of the split and the calibration before believing the metrics."""
    cautions = []
    if evaluated.split == "train":
        cautions.append("These stays were trained on: on new stays all metrics will be worse.")
    if evaluated.split == "valid" and is_selected:
        cautions.append("The validation split chose the checkpoint: on new stays the metrics will be somewhat worse.")
    if evaluated.calibration is not None:
        return cautions + evaluated.calibration.cautions(evaluated.split, evaluated.target)
    kind = TASKS[evaluated.spec.task].Calibration
    return cautions if kind is None else [*cautions, kind.MISSING]


# ------------------------------------------------------------------ the table


def result_text(content: Plain) -> str:
    """What is printed of an evaluation."""
    patients = f" of {content['patients']:,} patients" * (content["resampled"] == "patients")
    primary, counted = content["primary"], ""
    if "positives" in content:
        counted = f", {content['positives']:,} positive (prevalence {content['prevalence']:.1%})"
    width = max(22, *(len(title_of(name)) for name in content["figures"])) + 2
    lines = [
        *verdict_lines(content),
        content["checkpoint"],
        f"  task {content['task']}, split {content['split']}: {content['stays']:,} stays{patients}{counted}; label "
        f"{content['label_name']}",
        "",
        f"  {'metric':<{width}}{'value':>8}   95 % interval (over {content['resampled']})",
        *(_line(name, metric, width) for name, metric in content["figures"].items()),
    ]
    if content["threshold"] is not None:
        words = content["decision"]["words"]
        lines.append(
            f"  The last {len(AT_THRESHOLD)} are at the threshold {content['threshold']:.3f}, chosen on the validation "
            f"split: {words}."
        )
    for name in ("decision", "abstention"):
        lines += [_line(key, metric, width) for key, metric in content.get(name, {}).get("figures", {}).items()]
    members = content["members"].items()
    others = {f"compared with {name}": other for name, other in content["baselines"].items()}
    others |= {f"compared with its member {name}, weight {other['weight']:.2f}": other for name, other in members}
    for title, other in others.items():
        lines += ["", f"  {title}"]
        for metric in [*primary, *(["brier"] * ("brier" in other["figures"]))]:
            lines.append(_line(metric, other["figures"][metric], width))
            if metric in other["difference"]:
                lines.append(_line("  difference", other["difference"][metric], width))
    lines += _groups("subgroup", [(f"{row['column']} {row['group']}", row) for row in content["subgroups"]], primary)
    lines += _interactions(content["subgroup_columns"])
    lines += _groups("first hours", [(f"{row['hours']:g} h", row) for row in content["landmarks"]], primary)
    return "\n".join(lines)


def _line(name: str, metric: dict[str, float | None], width: int) -> str:
    perfect = BINARY_METRICS[name].perfect if name in BINARY_METRICS else None
    note = "" if perfect is None else f"   (perfect: {perfect:g})"
    return f"  {title_of(name):<{width}}{_number(metric['value']):>8}   {_interval(metric)}{note}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(metric: dict[str, float | None]) -> str:
    low, high = metric["low"], metric["high"]
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _groups(title: str, rows: list[tuple[str, Plain]], primary: Sequence[str]) -> list[str]:
    """A table with one row for each subgroup or landmark, and a column for each primary metric."""
    if not rows:
        return []
    columns = ["stays", *(["positives"] if "positives" in rows[0][1] else [])]
    cells = [[title, *columns, *(title_of(key) for key in primary)]]
    for name, row in rows:
        metrics = [f"{_number(row['figures'][key]['value'])} ({_interval(row['figures'][key])})" for key in primary]
        cells.append([name, *(f"{row[column]:,}" for column in columns), *metrics])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)) for row in cells]
    return ["", *(f"  {row}".rstrip() for row in padded)]


def _interactions(columns: Sequence[Plain]) -> list[str]:
    """What is hidden of the subgroups of each column, and the tests of whether they differ."""
    lines = []
    for column in columns:
        tests = [f"{name} {_number(p['p'])} ({_number(p['holm'])})" for name, p in column["tests"].items()]
        lines += [f"  {column['column']}: p of a difference between groups (Holm): {', '.join(tests)}"] * bool(tests)
        lines += [f"  {hidden_words(column)}"] * bool(column["hidden"])
    return ["", *lines] if lines else []
