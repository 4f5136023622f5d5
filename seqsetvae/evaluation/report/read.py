"""A run folder as a report reads it: what is missing is None, what is damaged is one clear error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqsetvae.cohort.format import Cohort, open_cohort
from seqsetvae.errors import InputError
from seqsetvae.evaluation.report.evaluation_file import (
    EVALUATION,
    Evaluation,
    read_evaluation,
    read_task_evaluation,
)
from seqsetvae.evaluation.report.tables import (
    EVERY_SET,
    METRICS,
    PREDICTIONS,
    RiskAfterSets,
    ScoredStays,
    find_table,
    read_metrics,
    read_predictions,
    read_risk_after_sets,
)
from seqsetvae.evaluation.verdict import worse_of
from seqsetvae.files import read_json

CONFIG, SUMMARY, STATE, LOG = "config.json", "summary.json", "run_state.json", "train.log"
NOT_METRICS = {"stage", "epoch", "step", "stays_per_second", "waiting", "seconds"}
_WARNING = re.compile(r"⚠️\s*|error: |.*\b\w*Warning: ")


@dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, float]]  # one for each validation
    summary: dict[str, Any] | None  # None: the run has not finished
    state: dict[str, Any]
    warnings: list[str]  # in train.log, each once
    evaluation: Evaluation | None
    stays: ScoredStays | None
    every_set: RiskAfterSets | None
    cohort: Cohort | None  # None: it has been moved or changed since
    task_evaluation: dict[str, Any] | None = None  # of another task than one binary label, as evaluation.json has it

    @property
    def settings(self) -> dict[str, Any]:
        return self.config.get("settings") or {}

    @property
    def worse_than(self) -> str | None:
        """Which baselines are better than the model and what to use, in words."""
        if self.task_evaluation is not None:
            return worse_of(self.task_evaluation)
        return None if self.evaluation is None else self.evaluation.worse_than

    @property
    def split(self) -> str | None:
        """That of its evaluation."""
        if self.task_evaluation is not None:
            return str(self.task_evaluation["split"])
        return None if self.evaluation is None else self.evaluation.split

    @property
    def cautions(self) -> Sequence[str]:
        """Those of its evaluation."""
        if self.task_evaluation is not None:
            return self.task_evaluation.get("cautions") or ()
        return () if self.evaluation is None else self.evaluation.cautions

    @property
    def events(self) -> str:
        """A hash of its data, whatever the labels."""
        return _events(self.config.get("cohort") or {})

    @property
    def mode(self) -> str:
        return str(self.settings.get("mode", "run"))

    @property
    def task(self) -> str:
        """What the model predicts; runs from before there were tasks predict one binary label."""
        return str(self.settings.get("task", "binary"))

    @property
    def label_name(self) -> str:
        return str((self.config.get("cohort") or {}).get("label_name", "label"))

    @property
    def notices(self) -> list[str]:
        """What was odd about the data."""
        return list((self.config.get("cohort") or {}).get("notices") or ())

    @property
    def window(self) -> str | None:
        """Up to when events were used in training; None: the run is of an earlier version."""
        recorded = self.config.get("window")
        return recorded if isinstance(recorded, str) else None

    @property
    def not_used(self) -> list[list[str]]:
        """(variable, why) of those that the model does not use, or not wholly."""
        recorded = self.config.get("variables_not_used")
        return [[str(name), str(why)] for name, why in recorded.items()] if isinstance(recorded, dict) else []

    @property
    def metrics(self) -> list[str]:
        """Columns of metrics.csv that measure the model."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if name not in NOT_METRICS and not name.startswith("lr_")]

    @property
    def watched(self) -> str:
        """The metric that chose best.ckpt."""
        recorded = None if self.summary is None else self.summary.get("watched")
        return str(recorded or ("val_auc" if self.mode == "finetune" else "val_loss"))

    @property
    def best(self) -> dict[str, float] | None:
        """The row of best.ckpt: the one that the summary names, before the end the first of the best."""
        chosen = None if self.summary is None else self.summary.get("best_epoch")
        rows = [row for row in self.rows if self.watched in row and chosen in (None, row["epoch"])]
        better = min if self.watched.endswith("_loss") else max
        return better(rows, key=lambda row: row[self.watched]) if rows else None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is not a run folder, or one of its files is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: is not a run folder (it has no {CONFIG}); pass the folder that a run has written")
    config = read_json(folder / CONFIG)
    for name in ("settings", "cohort"):
        if not isinstance(config.get(name) or {}, dict):
            raise InputError(f"{folder / CONFIG}: damaged, {name} is {config[name]!r:.60} and not an object")
    is_binary = (config.get("settings") or {}).get("task", "binary") == "binary"
    is_evaluated = (folder / EVALUATION).is_file()
    evaluation = read_evaluation(folder / EVALUATION) if is_evaluated and is_binary else None
    split = None if evaluation is None else evaluation.split
    predictions, every_set = find_table(folder, PREDICTIONS), find_table(folder, EVERY_SET)
    return Run(
        folder=folder,
        config=config,
        rows=read_metrics(folder / METRICS) if (folder / METRICS).is_file() else [],
        summary=_checked(folder / SUMMARY, _SUMMARY) if (folder / SUMMARY).is_file() else None,
        state=_checked(folder / STATE, _STATE) if (folder / STATE).is_file() else {},
        warnings=_warnings(folder / LOG) if (folder / LOG).is_file() else [],
        evaluation=evaluation,
        stays=None if predictions is None or not is_binary else read_predictions(predictions, split),
        every_set=None if every_set is None else read_risk_after_sets(every_set),
        cohort=_cohort(config.get("cohort")),
        task_evaluation=read_task_evaluation(folder / EVALUATION) if is_evaluated and not is_binary else None,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1e12


def _are(value: Any, kind: type, is_item: Callable[[Any], bool]) -> bool:
    """Whether it is a list or object of such items."""
    if not isinstance(value, kind):
        return False
    return all(is_item(each) for each in (value.values() if isinstance(value, dict) else value))  # type: ignore[attr-defined]


def _are_texts(value: Any) -> bool:
    return _are(value, list, lambda each: isinstance(each, str))


_SUMMARY: dict[str, Callable[[Any], bool]] = {  # what a report uses of summary.json and run_state.json
    "seconds": _is_finite,
    "waiting": _is_number,
    "best_epoch": _is_number,
    "watched": lambda value: isinstance(value, str),
    "stays_per_second": lambda value: _are(value, dict, _is_number),
    "trained": lambda value: _are(value, dict, lambda parts: _are(parts, dict, _is_finite)),
    **dict.fromkeys(("head_alone", "advice", "against_chance"), _are_texts),
}
_STATE = {"passes": lambda value: _are(value, list, _is_pass)}


def _is_pass(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_finite(value.get(name)) for name in ("stays", "seconds"))


def _checked(file: Path, checks: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The object in a file. Raises InputError if what a report uses of it has another type; null = not known."""
    content = read_json(file)
    for name, check in checks.items():
        if content.get(name) is not None and not check(content[name]):
            raise InputError(f"{file}: damaged, {name} is {content[name]!r:.60}")
    return {name: value for name, value in content.items() if value is not None}


def _cohort(recorded: Any) -> Cohort | None:
    """The cohort of the run if it is still where it was, with the same content."""
    if not isinstance(recorded, dict) or not isinstance(recorded.get("path"), str):
        return None
    try:
        cohort = open_cohort(recorded["path"], verify=False)  # nothing is computed from it, and hashing takes long
    except InputError:
        return None
    return _as_read(cohort, recorded.get("variables")) if cohort.data_hash == _events(recorded) else None


def _events(recorded: Mapping[str, Any]) -> str:
    """A hash of the data of a run, without labels that are not in the cohort; `content` is that of earlier versions."""
    return str(next((recorded[key] for key in ("events", "data", "content") if key in recorded), None))


def _as_read(cohort: Cohort, read: Any) -> Cohort:
    """The cohort with the mean and std that the run read, by variable; null = none."""
    if not isinstance(read, dict) or read.keys() != set(cohort.vocabulary):
        return cohort
    pairs = np.array([[np.nan if x is None else x for x in read[name]] for name in cohort.vocabulary], dtype=np.float64)
    return replace(cohort, variables=replace(cohort.variables, mean=pairs[:, 0], std=pairs[:, 1]))


def _warnings(log: Path) -> list[str]:
    """The warnings in train.log, each once; lines that go on with one are indented by three spaces."""
    return warnings_in(log.read_text(encoding="utf-8", errors="replace").splitlines())


def warnings_in(lines: Sequence[str]) -> list[str]:
    """Warnings in the lines of a log: those of this program (⚠️), of Python's `warnings`, and what ended the run.

    >>> warnings_in(["Epoch 1", "⚠️  The rate is", "   too high", "x.py:3: UserWarning: odd"])
    ['The rate is too high', 'odd']
    """
    found: list[list[str]] = []
    goes_on = False
    for line in lines:
        start = _WARNING.match(line)
        if start:
            found.append([line[start.end() :].strip()])
        elif goes_on and line.startswith("   "):
            found[-1].append(line.strip())
        goes_on = line.startswith("⚠️") or (goes_on and not start and line.startswith("   "))
    return list(dict.fromkeys(" ".join(parts) for parts in found))
