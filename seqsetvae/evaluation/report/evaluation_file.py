"""evaluation.json of a run, as `--mode evaluate` writes it, checked and in named fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seqsetvae.errors import InputError
from seqsetvae.evaluation.statistics import PREVALENCE
from seqsetvae.evaluation.verdict import worse_of
from seqsetvae.files import read_json

EVALUATION = "evaluation.json"
Content = TypeVar("Content")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; no interval where it could not be computed."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def width(self) -> float:
        """Of the interval; 0 without one."""
        return 0.0 if self.low is None or self.high is None else self.high - self.low

    def excludes(self, value: float) -> bool:
        """Whether there is an interval, and `value` is outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


Figures = Mapping[str, Estimate]  # auroc, auprc, brier, ...; without those that could not be computed


@dataclass(frozen=True)
class Baseline:
    """Another model on the same stays. `difference` is the fine-tuned model minus this one."""

    name: str
    figures: Figures
    difference: Figures


@dataclass(frozen=True)
class Group:
    """The stays that share a value of a column, or those with data up to an hour."""

    column: str
    name: str
    stays: int
    positives: int
    figures: Figures


@dataclass(frozen=True)
class Evaluation:
    """A fine-tuned checkpoint on one split."""

    checkpoint: str
    split: str
    stays: int
    positives: int
    label_name: str
    threshold: float | None  # chosen on the validation split
    prevalence: float
    figures: Figures
    cautions: tuple[str, ...]
    baselines: tuple[Baseline, ...]
    subgroups: tuple[Group, ...]
    landmarks: tuple[Group, ...]  # their name is the hour
    resampled: str = "stays"  # what the intervals are over: stays or patients
    worse_than: str | None = None  # which baselines are better and what to use, in words

    @property
    def rivals(self) -> tuple[Baseline, ...]:
        """The baselines that rank stays, which the prevalence does not."""
        return tuple(each for each in self.baselines if each.name != PREVALENCE)


def read_evaluation(file: Path) -> Evaluation:
    """The evaluation in a file. Raises InputError naming the file and what is wrong in it."""
    return _read(file, _evaluation)


def read_task_evaluation(file: Path) -> dict[str, Any]:
    """That of another task than one binary label, as it is in the file. Raises InputError like `read_evaluation`."""
    return _read(file, _checked_task)


def _read(file: Path, checked: Callable[[dict[str, Any]], Content]) -> Content:
    content = read_json(file)
    try:
        return checked(content)
    except KeyError as error:
        raise _damaged(file, f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, f"a value has the wrong type: {error}") from None


def _damaged(file: Path, what: str) -> InputError:
    return InputError(f"{file}: damaged ({what}). Run --mode evaluate again to write it anew.")


def _evaluation(content: dict[str, Any]) -> Evaluation:
    stays, positives = int(content["stays"]), int(content["positives"])
    baselines = content.get("baselines") or {}
    return Evaluation(
        checkpoint=str(content["checkpoint"]),
        split=str(content["split"]),
        stays=stays,
        positives=positives,
        label_name=str(content["label_name"]),
        threshold=_number(content.get("threshold")),
        prevalence=float(content.get("prevalence", positives / max(stays, 1))),
        figures=_figures(content["figures"]),
        cautions=tuple(map(str, content.get("cautions") or ())),
        baselines=tuple(_baseline(name, each) for name, each in baselines.items()),
        subgroups=tuple(_group(str(each["column"]), each["group"], each) for each in content.get("subgroups") or ()),
        landmarks=tuple(_group("hours", f"{each['hours']:g}", each) for each in content.get("landmarks") or ()),
        resampled=str(content.get("resampled", "stays")),  # files from before it was recorded
        worse_than=worse_of(content),
    )


def _checked_task(content: dict[str, Any]) -> dict[str, Any]:
    """The content, if every figure is one and every other value of its type."""
    baselines, groups = content.get("baselines") or {}, content.get("subgroups") or []
    parts = [content["figures"], *(each["figures"] for each in [*baselines.values(), *groups])]
    for each in [*parts, *(each["difference"] for each in baselines.values())]:
        _figures(each)
        if not all({"value", "low", "high"} <= figure.keys() for figure in each.values()):
            raise ValueError(f"a figure lacks its interval: {each!r:.60}")
    texts = [content["checkpoint"], content["split"], content["resampled"], *(content.get("cautions") or ())]
    if not all(isinstance(each, str) for each in texts):
        raise TypeError(f"{texts!r:.60}")
    for each in (content, *groups):
        int(each["stays"])
    return content


def _baseline(name: str, content: dict[str, Any]) -> Baseline:
    return Baseline(name, _figures(content["figures"]), _figures(content.get("difference") or {}))


def _group(column: str, name: object, content: dict[str, Any]) -> Group:
    figures = _figures(content.get("figures") or {})
    return Group(column, str(name), int(content["stays"]), int(content["positives"]), figures)


def _figures(content: dict[str, Any]) -> dict[str, Estimate]:
    """Those that have a value; an undefined one is null or NaN in the file."""
    found = {}
    for name, each in content.items():
        value = None if each is None else _number(each["value"])
        if value is not None:
            found[name] = Estimate(value, _number(each.get("low")), _number(each.get("high")))
    return found


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
