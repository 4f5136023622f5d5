"""A run folder as a report reads it: what is missing is None, what is damaged is one clear error.

Legend: n stays, r rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, open_cohort
from seqsetvae.evaluation.results import evaluation_schema
from seqsetvae.system.console import WARNINGS
from seqsetvae.system.errors import InputError
from seqsetvae.system.schema import read_checked

CONFIG, PREDICTIONS, METRICS = "config.json", "predictions", "metrics.csv"
SCHEMAS: dict[str, Any] = {  # what a report uses of each .json file (system/schema.py)
    "config": {"settings?": {}, "cohort?": {"notices?": [str]}, "window?": str, "variables_not_used?": {"*": str}},
    "summary": {
        **dict.fromkeys(("seconds?", "waiting?", "best_epoch?"), float),
        **{key: [str] for key in ("head_alone?", "advice?", "against_chance?")},
        "watched?": str,
        "stays_per_second?": {"*": float},
        "trained?": {"*": {"*": float}},
    },
    "run_state": {"passes?": [{"stays": float, "seconds": float}]},
    "evaluation": evaluation_schema,
}
AGAIN = "Run --mode evaluate again to write it anew."
SUFFIXES = (".csv", ".parquet")
ROW_NAMES = ("stage", "epoch")  # columns of metrics.csv that say which validation a row is of
NOT_METRICS = {"stage", "epoch", "step", "stays_per_second", "waiting", "seconds"}
SHARE = (lambda values: (values >= 0) & (values <= 1), "between 0 and 1")  # allowed values of a column, in words
Floats = NDArray[np.float64]
Plain = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ScoredStays:
    """The labelled stays of one split that have a prediction."""

    split: str
    stay_id: NDArray[np.int64]  # [n]
    label: NDArray[np.int64]  # [n], 0 or 1
    logit: Floats  # [n]
    risk: Floats  # [n], the calibrated probability where there is one


@dataclass(frozen=True, eq=False)
class Run:
    """What is known of a run."""

    folder: Path
    config: Plain
    rows: list[dict[str, float]] = field(default_factory=list)  # one for each validation
    summary: Plain | None = None  # None: the run has not finished
    state: Plain = field(default_factory=dict)
    evaluation: Plain | None = None  # evaluation.json, of a split
    external: list[Plain] = field(default_factory=list)  # what it says of other cohorts, alone or beside the split
    external_pooled: Plain = field(default_factory=dict)
    stays: ScoredStays | None = None
    cohort: Cohort | None = None  # None: it has been moved or changed since
    warnings: list[str] = field(default_factory=list)  # that the run printed, each once

    @property
    def settings(self) -> Plain:
        return self.config.get("settings") or {}

    @property
    def recorded(self) -> Plain:
        """What config.json says of the data."""
        return self.config.get("cohort") or {}

    @property
    def events(self) -> str:
        """A hash of its data, whatever the labels; `content` is that of earlier versions."""
        return str(next((self.recorded[key] for key in ("events", "data", "content") if key in self.recorded), None))

    @property
    def mode(self) -> str:
        return str(self.settings.get("mode", "run"))

    @property
    def task(self) -> str:
        """What the model predicts; runs from before there were tasks predict one binary label."""
        return str(self.settings.get("task", "binary"))

    @property
    def label_name(self) -> str:
        return str(self.recorded.get("label_name", "label"))

    @property
    def not_used(self) -> dict[str, str]:
        """Why the model does not use a variable, or not wholly, by its name."""
        return self.config.get("variables_not_used") or {}

    @property
    def metrics(self) -> list[str]:
        """Columns of metrics.csv that measure the model."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if name not in NOT_METRICS and not name.startswith("lr_")]

    @property
    def watched(self) -> str:
        """The metric that chose best.ckpt."""
        return str((self.summary or {}).get("watched") or ("val_auc" if self.mode == "finetune" else "val_loss"))

    @property
    def best(self) -> dict[str, float] | None:
        """The row of best.ckpt: the one that the summary names, before the end the first of the best."""
        chosen = (self.summary or {}).get("best_epoch")
        rows = [row for row in self.rows if self.watched in row and chosen in (None, row["epoch"])]
        better = min if self.watched.endswith("_loss") else max
        return better(rows, key=lambda row: row[self.watched]) if rows else None


Runs = Mapping[str, Run]  # by the name that a page gives them; a single one has none


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is not a run folder, or one of its files is damaged.
    """
    if not (folder / CONFIG).is_file() and not (folder / "evaluation.json").is_file():
        raise InputError(f"{folder}: is not a run folder (it has no {CONFIG}); pass the folder that a run has written")
    content: dict[str, Any] = {
        name.removeprefix("run_"): read_checked(file, schema, AGAIN * (name == "evaluation"))
        for name, schema in SCHEMAS.items()
        if (file := folder / f"{name}.json").is_file()
    }
    evaluated = content.get("evaluation", {})
    content |= {name: evaluated[name] for name in ("external", "external_pooled") if name in evaluated}
    if "figures" not in evaluated:
        content["evaluation"] = None
    if (folder / METRICS).is_file():
        content["rows"] = read_metrics(folder / METRICS)
    if "config" not in content:  # what evaluate wrote elsewhere than in the run folder
        content["config"] = {"settings": {"mode": "evaluate", "task": evaluated.get("task", "binary")}}
        content["config"]["cohort"] = {"label_name": evaluated["label_name"]}
    run = Run(folder, **content)
    predictions = _find_table(folder, PREDICTIONS)
    if run.task == "binary":  # other tables hold no single risk
        split = None if run.evaluation is None else run.evaluation["split"]
        stays = None if predictions is None else read_predictions(predictions, split)
        run = replace(run, stays=stays)
    warnings = folder / WARNINGS
    lines = warnings.read_text(encoding="utf-8", errors="replace").splitlines() if warnings.is_file() else []
    return replace(run, cohort=_cohort(run), warnings=list(dict.fromkeys(lines)))


def _cohort(run: Run) -> Cohort | None:
    """The cohort of the run if it is still where it was, with the same content, as the run read it."""
    if not isinstance(run.recorded.get("path"), str):
        return None
    try:
        cohort = open_cohort(run.recorded["path"], verify=False)  # nothing is computed from it, and hashing takes long
    except InputError:
        return None
    if cohort.data_hash != run.events:
        return None
    read = run.recorded.get("variables")
    if not isinstance(read, dict) or read.keys() != set(cohort.vocabulary):
        return cohort
    pairs = np.array([[np.nan if x is None else x for x in read[name]] for name in cohort.vocabulary], dtype=np.float64)
    return replace(cohort, variables=replace(cohort.variables, mean=pairs[:, 0], std=pairs[:, 1]))


# ------------------------------------------------------------------ tables


def read_metrics(file: Path) -> list[dict[str, float]]:
    """metrics.csv: a dictionary for each validation, without empty cells. Raises InputError for a damaged file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header, rows = list(reader.fieldnames or []), list(reader)
        _require_once(header, [*ROW_NAMES, *filter(None, header)], file)
        validations = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
    except InputError:
        raise
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table of numbers ({error})") from None
    for at, row in enumerate(validations):
        if not all(math.isfinite(row.get(name, math.nan)) for name in ROW_NAMES):
            raise InputError(f"{file}, row {at} (counted from 0): {' or '.join(ROW_NAMES)} is not a number")
    return validations


def _find_table(folder: Path, name: str) -> Path | None:
    """The .csv or .parquet file of this name, if there is one. Raises InputError if there are both."""
    files = [file for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    if len(files) > 1:
        raise InputError(
            f"{folder}: has {files[0].name} and {files[1].name}, and a report reads one of them. Remove the other."
        )
    return files[0] if files else None


def read_predictions(file: Path, split: str | None) -> ScoredStays:
    """The predictions for a split; without one for test, valid or train, the first of these in the file.

    Raises:
        InputError: the file cannot be read, or a column is missing or holds something that is not allowed.
    """
    table = _read(file, {"split": pa.string(), "reason": pa.string(), "stay_id": pa.int64()})
    names = set(table["split"].to_pylist())
    split = split or next((name for name in ("test", "valid", "train") if name in names), None)
    if split is None or split not in names:
        raise InputError(f"{file}: has no stay of the split {split!r}. Run --mode evaluate again to write it anew.")
    table = table.filter(pa.compute.equal(table["split"], split))
    logit = _numbers(table, "logit", file, lambda values: ~np.isinf(values), "finite numbers")
    probability = _numbers(table, "probability", file, *SHARE)
    calibrated = _numbers(table, "calibrated_probability", file, *SHARE)
    label = _numbers(table, "label", file, lambda values: np.isin(values, (0, 1)), "0, 1 or empty")
    used = ~np.isnan(probability) & ~np.isnan(logit) & ~np.isnan(label)
    return ScoredStays(
        split=split,
        stay_id=table["stay_id"].to_numpy()[used],
        label=label[used].astype(np.int64),
        logit=logit[used],
        risk=(probability if np.isnan(calibrated[used]).any() else calibrated)[used],
    )


def _read(file: Path, types: dict[str, Any]) -> pa.Table:
    """A table with these types of columns; the other columns are as pyarrow finds them."""
    empty_is_null = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=["", "nan", "NaN"])
    try:
        if file.suffix != ".parquet":
            table = pa.csv.read_csv(file, convert_options=empty_is_null)
        else:
            table = pa.parquet.read_table(file)
            known = pa.schema([field.with_type(types.get(field.name, field.type)) for field in table.schema])
            table = table.cast(known)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read as a table ({error})") from None
    _require_once(table.column_names, list(types), file)
    if table["stay_id"].null_count:
        raise InputError(f"{file}, column stay_id: {table['stay_id'].null_count:,} rows have none")
    return table


def _require_once(columns: Sequence[str], names: Sequence[str], file: Path) -> None:
    """Raises InputError unless each of these columns is there, once."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(columns)}")
    twice = [name for name in names if columns.count(name) > 1]
    if twice:
        raise InputError(f"{file}: column {twice[0]} occurs twice; keep one of the two")


def _numbers(
    table: pa.Table,
    name: str,
    file: Path,
    allowed: Callable[[Floats], NDArray[np.bool_]],
    kind: str,
) -> Floats:
    """A column as float64, NaN where it is empty. Raises InputError unless all others are `allowed`."""
    _require_once(table.column_names, [name], file)
    try:
        values = np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise InputError(f"{file}, column {name}: not a column of numbers ({error})") from None
    wrong = values[~allowed(values) & ~np.isnan(values)]
    if len(wrong):
        raise InputError(f"{file}, column {name}: {len(wrong):,} values are not {kind}, for example {wrong[0]:g}")
    return values
