"""What a reader must know before believing an evaluation, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from seqsetvae.system.errors import counted
from seqsetvae.system.findings import NOTE, WARNING, Finding
from seqsetvae.tasks.scores import title_of

WIDE = 0.1  # width of an AUROC interval that hides any difference that models of one data set usually have
LIST_OF_NUMBERS = re.compile(r"\[\n([-+.\deE,\s]+?)\n\s*\]")  # as JSON with an indent; no text in it has a new line

Metric = Mapping[str, Any]  # value, low, high


def drawn(content: Mapping[str, Any], curves: list[dict[str, Any]]) -> dict[str, Any]:
    """What a report adds to its tables, as entries of evaluation.json."""
    findings = [{"level": each.level, "text": each.text, "action": each.action} for each in findings_of(content)]
    return {"findings": findings, "curves": curves}


def as_text(content: Mapping[str, Any]) -> str:
    """The text of evaluation.json, a list of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return LIST_OF_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def findings_of(content: Mapping[str, Any]) -> list[Finding]:
    """Those of the content of evaluation.json, whatever the task: its cautions, and what follows from its metrics."""
    metrics = {name: each for name, each in content["figures"].items() if each.get("low") is not None}
    found = [Finding(WARNING, text) for text in content.get("cautions") or ()]
    return [*found, *_of_intervals(metrics), *_of_subgroups(content, metrics)]


def _of_intervals(metrics: Mapping[str, Metric]) -> Iterator[Finding]:
    for name in ("auroc", "mean AUROC"):
        width = _width(metrics.get(name))
        if width > WIDE:
            yield Finding(
                WARNING,
                f"Wide interval: the 95 % interval of the {title_of(name)} is {width:.3f} wide, so smaller "
                "differences cannot be seen on these stays.",
                "Evaluate more stays, or use --mode crossvalidate, which tests every stay once.",
            )
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


def _of_subgroups(content: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Iterator[Finding]:
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


def _with_interval(metric: Metric, digits: int = 3) -> str:
    return f"{metric['value']:.{digits}f} ({metric['low']:.{digits}f} to {metric['high']:.{digits}f})"
