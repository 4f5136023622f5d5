"""Findings and verdict of an evaluation: what a reader must know before believing it, and what to do about it.

Said first is whether a baseline, or another checkpoint, is better than the model. Everything is read from
the content of evaluation.json (or crossvalidation.json), so that a report of an older evaluation says it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqsetvae.system.errors import NOTE, WARNING, Finding, counted
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.scores import BINARY_METRICS, title_of

SMALL_STAYS, SMALL_CLASS = 200, 30  # labelled stays and stays of a class below which the interval is said first
NO_BASIS = 50  # labelled stays below which nothing can be decided
FEW_OF_CLASS = 50  # below this the metrics are too uncertain for a conclusion, and so are the intervals themselves
WIDE = 0.1  # width of an AUROC interval that hides any difference that models of one data set usually have
ALPHA = 0.05  # below which a test of interaction is worth a finding
LIST_OF_NUMBERS = re.compile(r"\[\n([-+.\deE,\s]+?)\n\s*\]")  # as JSON with an indent; no text in it has a new line

Metric = Mapping[str, Any]  # value, low, high


def as_text(content: Mapping[str, Any]) -> str:
    """The text of evaluation.json, each list of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return LIST_OF_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def findings_of(content: Mapping[str, Any]) -> list[Finding]:
    """What follows from evaluation.json, whatever the task, the size of the data first; `cautions` are taken over."""
    metrics = {name: metric for name, metric in content["figures"].items() if metric.get("low") is not None}
    cautions = [Finding(WARNING, text) for text in content.get("cautions") or ()]
    return [
        *_size_findings(content),
        *cautions,
        *_interval_findings(metrics),
        *_subgroup_findings(content, metrics),
        *_interaction_findings(content),
    ]


def sizes(content: Mapping[str, Any]) -> tuple[int, int | None]:
    """(labelled stays, of the label that has fewest; stays of the smallest class, None where there are no classes)."""
    stays, labels = content["stays"], content.get("labels") or {}
    if "positives" in content:
        return stays, min(content["positives"], stays - content["positives"])
    outcomes = {each["outcome"]: each for each in content.get("curves") or () if "outcome" in each}
    rare = [min(outcome["positives"], outcome["stays"] - outcome["positives"]) for outcome in outcomes.values()]
    if content.get("task") == "multilabel":  # a label of which all stays have one class has no curve
        rare += [0 for name in labels if name not in outcomes]
    return min([stays, *labels.values()]), min(rare, default=None)


def _size_findings(content: Mapping[str, Any]) -> Iterator[Finding]:
    stays, smallest = sizes(content)
    if stays < SMALL_STAYS or (smallest is not None and smallest < FEW_OF_CLASS):
        of_class = "" if smallest is None else f", or {FEW_OF_CLASS} of a class,"
        text = f"Few data: {_counts(stays, smallest)}. With fewer than {SMALL_STAYS} stays{of_class} metrics are "
        action = "Evaluate more stays, or use --mode crossvalidate, which tests every stay once."
        yield Finding(WARNING, text + "uncertain and their intervals themselves unreliable.", action)


def _counts(stays: int, smallest: int | None) -> str:
    return f"{counted(stays, 'labelled stay')}{'' if smallest is None else f', {smallest:,} of the smallest class'}"


def _interval_findings(metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    for name in ("auroc", "mean AUROC"):
        width = _width(metrics.get(name))
        if width > WIDE:
            yield Finding(
                WARNING,
                f"Wide interval: the 95 % interval of the {title_of(name)} is {width:.3f} wide, so smaller "
                "differences cannot be seen on these stays.",
                "Evaluate more stays, or use --mode crossvalidate, which tests every stay once.",
            )
    if "auroc" in metrics and metrics["auroc"]["low"] <= 0.5:
        text = "The 95 % interval of the AUROC includes 0.5: on these stays the model is not clearly better than "
        yield Finding(WARNING, f"{text}chance.")
    slope = metrics.get("calibration_slope")
    if slope is not None and not slope["low"] <= 1 <= slope["high"]:
        extreme = "too extreme (far from the mean)" if slope["value"] < 1 else "too close to the mean"
        yield Finding(
            NOTE,
            f"Predicted probabilities are {extreme}: calibration slope {_with_interval(slope, 2)}.",
            "Fit the calibration on stays like these before the probabilities are used as they are.",
        )


def _width(metric: Metric | None) -> float:
    return 0.0 if metric is None else float(metric["high"] - metric["low"])


def _subgroup_findings(content: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    """Groups whose interval is below what all stays reach, of the first metric of the task (higher is better)."""
    name = next(iter(content["figures"]), "")
    for group in content.get("subgroups") or ():
        metric = (group.get("figures") or {}).get(name) or {}
        if name in metrics and metric.get("high") is not None and metric["high"] < metrics[name]["value"]:
            stays = counted(group["stays"], "stay")
            count = f"{counted(group['positives'], 'positive')} of {stays}" if "positives" in group else stays
            yield Finding(
                NOTE,
                f"Lower in the subgroup {group['column']} = {group['group']}: {title_of(name)} "
                f"{_with_interval(metric)}, {count}.",
                "Evaluate more stays of this group before the model is used for it.",
            )


def hidden_words(column: Mapping[str, Any]) -> str:
    """What is said of the hidden groups of a column."""
    names, how = ", ".join(column["hidden"]), "are shown together" if column["shown"] else "are hidden"
    few = f"fewer than {column['smallest_group']:.0f} stays, positives or negatives"
    return f"{column['column']}: {names} {how}, because one has {few}, and would follow from the others"


def _interaction_findings(content: Mapping[str, Any]) -> Iterator[Finding]:
    """Columns whose groups differ beyond chance."""
    columns = content.get("subgroup_columns") or ()
    tests = sum(p.get("p") is not None for column in columns for p in column["tests"].values())
    for column in columns:
        for name, p in column["tests"].items():
            if p.get("holm") is not None and p["holm"] < ALPHA:
                yield Finding(
                    NOTE,
                    f"Not the same in all groups of {column['column']}: {title_of(name)} (p = {p['holm']:.2g} after "
                    f"Holm's correction for {counted(tests, 'test')}).",
                    "Look at the differences between its groups before the model is used for all of them.",
                )


def _with_interval(metric: Metric, digits: int = 3) -> str:
    return f"{metric['value']:.{digits}f} ({metric['low']:.{digits}f} to {metric['high']:.{digits}f})"


# ------------------------------------------------------------------ what is said first


SIMPLEST_FIRST = (  # of baselines and of members of an average, after the constant
    *("logistic regression", "ridge regression", "linear model"),
    *("boosted trees", "trees", "random trees", "network"),
)
NOT_COMPARED = "Not compared with another model on the same stays, so this does not show whether the model is good."
NOT_WORSE = "No baseline is better than this model"
TRAINED_ON = "On these stays the models were trained: which one is better for new stays, another split shows."
IN_WORDS = "verdict"  # the key in evaluation.json and crossvalidation.json

Plain = Mapping[str, Any]


def verdict(content: Plain) -> str:
    """One paragraph about an evaluation."""
    others, metrics = content.get("baselines") or {}, content["figures"]
    compared = beaten_by(content) or not_worse(others, content.get("split"), _compared_with_best(metrics, others))
    primary = content.get("primary") or list(metrics)[:1]
    simpler = {**(content.get("members") or {}), **others}
    return verdict_of_small_data(*sizes(content), {name: metrics[name] for name in primary}, simpler, compared)


def verdict_of_small_data(stays: int, smallest: int | None, metrics: Plain, others: Plain, compared: str) -> str:
    """What is said of a comparison; of few data, first the intervals and the simplest model that is not worse.

    Args:
        stays, smallest: as from `sizes`.
        metrics: the main ones of the model, by name.
        others: what the model was compared with, as in `worse_than`, and its members.
        compared: what is said of many data.
    """
    if stays >= SMALL_STAYS and (smallest is None or smallest >= SMALL_CLASS):
        return compared
    basis = "No basis for a decision" if stays < NO_BASIS else "Small data"
    with_ends = [f"{title_of(name)} {_with_interval(metric)}" for name, metric in metrics.items() if _has_ends(metric)]
    intervals = f" 95 % intervals: {', '.join(with_ends)}." if with_ends else " There are no intervals."
    in_order = [*filter(is_constant, others), *(name for name in SIMPLEST_FIRST if name in others)]
    simplest = next((name for name in in_order if _is_not_worse(others[name])), None)
    text = f"{basis}: {_counts(stays, smallest)}.{intervals}"
    if simplest is None or TRAINED_ON in compared or not compared.startswith((NOT_COMPARED, NOT_WORSE)):
        return f"{text} {compared}"
    values = _compared(metrics, others[simplest], _differences(others[simplest]), any_sign=True)
    return (
        f"{text} The simplest model that is not worse by a paired 95 % interval: {_name_in_text(simplest)} ({values})."
    )


def _has_ends(metric: Plain) -> bool:
    return None not in (metric.get("low"), metric.get("high"))


def _is_not_worse(other: Plain) -> bool:
    """Whether another model is in no metric worse than this one by a paired interval, and there is one."""
    signs = [_sign(*item) for item in _differences(other) if _has_ends(item[1])]
    return bool(signs) and max(signs) <= 0


def beaten_by(content: Plain) -> str | None:
    """Which baselines of an evaluation are better than the model; None if none is."""
    return worse_than("this model", content["figures"], content.get("baselines") or {}, content.get("split"))


def not_worse(others: Iterable[str], split: str | None = None, beside: str = "") -> str:
    """A sentence that none of these models is better, with their names; `beside` is about the best of them."""
    names = [name for name in others if not is_constant(name)]
    if not names:
        return NOT_COMPARED
    text = f"{NOT_WORSE} by a paired 95 % interval that excludes 0 (compared: {', '.join(names)}).{beside}"
    return f"{text} {TRAINED_ON}" if split == "train" else text


def _compared_with_best(metrics: Plain, others: Plain) -> str:
    """The first metric that is compared, beside that of the best of the models."""
    models = {name: other for name, other in others.items() if not is_constant(name) and other.get("difference")}
    if not models:
        return ""
    best = min(models, key=lambda name: _rank(models[name]))
    text = _compared(metrics, models[best], list(_differences(models[best]))[:1], any_sign=True)
    return f" The best of them, {best}: {text}." * bool(text)


def verdict_lines(content: Plain) -> list[str]:
    """The verdict as the first lines of what is printed."""
    text = content[IN_WORDS]
    return ["⚠️  " * (not text.startswith((NOT_COMPARED, NOT_WORSE))) + text, ""]


def worse_than(model: str, metrics: Plain, others: Plain, split: str | None = None) -> str | None:
    """Which of the others are better than the model on the same stays, and what to use; None if none is.

    Args:
        model: what the model is called.
        metrics: of the model, by name.
        others: by name: `figures`, and the `difference` of the model minus the other, with paired intervals.
        split: of the stays; what is better on those that were trained on is no advice.
    """
    better = {name: other for name, other in others.items() if any(_sign(*item) < 0 for item in _differences(other))}
    if not better:
        return None
    listed = " and ".join(
        f"{_name_in_text(name)} ({_compared(metrics, other, _differences(other))})" for name, other in better.items()
    )
    best = min(better, key=lambda name: _rank(better[name]))
    instead = "no model rather than this one" if is_constant(best) else f"{best} instead, until a model is better"
    advice = TRAINED_ON if split == "train" else f"Use {instead}."
    return f"{model[:1].upper()}{model[1:]} is worse than {listed} on the same stays. {advice}"


def _differences(other: Plain) -> Iterable[tuple[str, Plain]]:
    return (other.get("difference") or {}).items()


def _sign(name: str, difference: Plain) -> int:
    """1 if the model is better, -1 if it is worse, 0 where the interval includes 0 or is missing."""
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None or low <= 0 <= high:
        return 0
    return -1 if (low > 0) == less_is_better(name) else 1


def is_constant(name: str) -> bool:
    """Whether a baseline is a prediction that looks at no stay."""
    return any(name == task.CONSTANT for task in TASKS.values())


def less_is_better(name: str) -> bool:
    """Whether a smaller value of a metric is better, also of that of one label (`Brier score of death`)."""
    family = name.removeprefix("mean ").split(" of ")[0]  # of the metric of one column
    return any(family in getattr(task, "LESS_IS_BETTER", ()) for task in TASKS.values()) or any(
        each.less_is_better for key, each in BINARY_METRICS.items() if family in (key, each.title)
    )


def _rank(other: Plain) -> float:
    """The first difference, signed so that less is worse for the model."""
    name, difference = next(iter(_differences(other)))
    value = difference.get("value") or 0.0
    return -value if less_is_better(name) else value


def _compared(metrics: Plain, other: Plain, compared: Iterable[tuple[str, Plain]], *, any_sign: bool = False) -> str:
    """The metrics of both and their difference, of those that are not the same; the model's advantages too."""
    parts = []
    for name, difference in compared:
        sign = _sign(name, difference)
        if sign or (any_sign and _has_ends(difference)):
            ours, theirs = ((each.get(name) or {}).get("value") for each in (metrics, other["figures"]))
            values = "" if ours is None or theirs is None else f" {ours:.3f} against {theirs:.3f},"
            text = f"{title_of(name)}{values} difference {difference['value']:+.3f} "
            text += f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
            parts.append(text + ", where the model is better" * (sign > 0 and not any_sign))
    return "; ".join(parts)


def _name_in_text(name: str) -> str:
    return f"the {name}, which looks at no stay" if is_constant(name) else name
