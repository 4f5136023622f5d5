"""The schema of evaluation.json, and how JSON that this program writes is checked against a schema when it is read.

A schema is a type (float: any finite number; object: anything), a tuple of allowed values, a list with the schema of
its items, an object of schemas by key, or a function from an object to its schema. A key that ends with ? may be
missing or null; * is any key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqsetvae.system.errors import InputError
from seqsetvae.system.files import read_json
from seqsetvae.system.findings import LEVELS

LARGEST = 1e12  # of a number in a file: NaN and infinite ones are faults

_METRICS = {"*": {"value?": float, "low?": float, "high?": float}}
_GROUP = {"stays": float, "positives?": float, "figures": _METRICS}
_LINE = {"x": [float], "y": [float]}
_MEANS = dict.fromkeys(("stays", "predicted", "observed", "low", "high"), float)
_OUTCOME = {  # of a label that is 0 or 1
    "outcome": str,
    **dict.fromkeys(("stays", "positives", "auroc", "auprc"), float),
    **dict.fromkeys(("roc", "precision_recall"), _LINE),
    "calibration": {"*": [{**_MEANS, "positives": float}]},
    "risk": {"of_label_0": [float], "of_label_1": [float], "medians": [float]},
    "net_benefit": {"threshold": [float], "model": [float], "every_stay": [float]},
    "at_threshold?": dict.fromkeys(("true_positive", "false_positive", "true_negative", "false_negative"), float),
}
_NUMBER = {"column": str, "stays": float, "groups": [_MEANS]}  # of a column of numbers
EVALUATION = {
    **dict.fromkeys(("checkpoint", "split", "label_name", "resampled?", "verdict?"), str),
    **dict.fromkeys(("stays", "positives?", "prevalence?", "threshold?"), float),
    "cautions?": [str],
    "primary?": [str],
    "figures": _METRICS,
    "findings?": [{"level": LEVELS, "text": str, "action?": str}],
    "baselines?": {"*": {"figures": _METRICS, "difference?": _METRICS}},
    "subgroups?": [{"column": str, "group": object, **_GROUP}],
    "landmarks?": [{"hours": float, **_GROUP}],
    "curves?": [lambda curve: _OUTCOME if "outcome" in curve else _NUMBER],
}


def read_checked(file: Path, schema: Any) -> dict[str, Any]:
    """The object in a file, without entries that are null. Raises InputError with the first fault."""
    content = read_json(file)
    fault = _fault(content, schema, "")
    if fault is not None:
        remedy = " Run --mode evaluate again to write it anew." * (schema is EVALUATION)
        raise InputError(f"{file}: damaged ({fault}).{remedy}")
    return {name: value for name, value in content.items() if value is not None}


def _fault(value: Any, schema: Any, at: str) -> str | None:
    """The first difference between a value and its schema, with its path; None if there is none."""
    parts: list[tuple[Any, Any, str]] = []
    if callable(schema) and not isinstance(schema, type):
        return _fault(value, schema(value) if isinstance(value, dict) else {}, at)
    if isinstance(schema, list) and isinstance(value, list):
        parts = [(each, schema[0], f"{at}[{place}]") for place, each in enumerate(value)]
    elif isinstance(schema, dict) and isinstance(value, dict):
        for key, each in schema.items():
            name = key.removesuffix("?")
            if key == "*":
                parts += [(item, each, f"{at}/{other}".lstrip("/")) for other, item in value.items()]
            elif value.get(name) is not None:
                parts.append((value[name], each, f"{at}/{name}".lstrip("/")))
            elif name == key:
                return f"{name!r} is missing" + f" in {at}" * bool(at)
    elif not _is_of(value, schema):
        return f"{at} is {value!r:.60}, which has the wrong type"
    return next((fault for part in parts if (fault := _fault(*part)) is not None), None)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return value in kind if isinstance(kind, tuple) else isinstance(kind, type) and isinstance(value, kind)
