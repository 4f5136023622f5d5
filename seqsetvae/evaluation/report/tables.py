"""The tables of a run that a report draws: predictions and every_set (.csv or .parquet), and metrics.csv.

Legend: n stays, r rows.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from seqsetvae.errors import InputError

ROW_NAMES = ("stage", "epoch")  # columns of metrics.csv that say which validation a row is of
PREDICTIONS, EVERY_SET, METRICS = "predictions", "every_set", "metrics.csv"
SUFFIXES = (".csv", ".parquet")
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoredStays:
    """The labelled stays of one split that have a prediction, and how many of the split do not count."""

    split: str
    stay_id: NDArray[np.int64]  # [n]
    label: NDArray[np.int64]  # [n], 0 or 1
    logit: Floats  # [n]
    probability: Floats  # [n]
    calibrated: Floats | None  # [n]; None: no calibrator was fitted
    unlabelled: int  # stays with a prediction and no label
    without_prediction: dict[str, int]  # number of stays, by reason

    @property
    def risk(self) -> Floats:
        """The probability that is shown and compared with the threshold: the calibrated one where there is one."""
        return self.probability if self.calibrated is None else self.calibrated

    @property
    def positives(self) -> int:
        return int(self.label.sum())

    @property
    def has_both_classes(self) -> bool:
        """Without both there are no curves."""
        return 0 < self.positives < len(self.label)


@dataclass(frozen=True, eq=False)
class RiskAfterSets:
    """The predicted risk after each set of some stays."""

    stay_id: NDArray[np.int64]  # [r]
    minute: Floats  # [r]
    probability: Floats  # [r]


def find_table(folder: Path, name: str) -> Path | None:
    """The .csv or .parquet file of this name, if there is one. Raises InputError if there are both."""
    found = [file for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise InputError(
            f"{folder}: has {found[0].name} and {found[1].name}, and a report reads one of them. Remove the other."
        )
    return found[0] if found else None


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
    logit, probability = _numbers(table, "logit", file), _numbers(table, "probability", file)
    label, calibrated = _numbers(table, "label", file), _numbers(table, "calibrated_probability", file)
    predicted = ~np.isnan(probability) & ~np.isnan(logit)
    used = predicted & ~np.isnan(label)
    _check(file, "label", label[used], np.isin(label[used], (0, 1)), "0, 1 or empty")
    _check(file, "logit", logit, ~np.isinf(logit), "finite numbers")
    for name, values in (("probability", probability), ("calibrated_probability", calibrated)):
        _check(file, name, values, np.isnan(values) | ((values >= 0) & (values <= 1)), "between 0 and 1")
    reasons = Counter(
        reason or "no reason given" for reason in table["reason"].filter(pa.array(~predicted)).to_pylist()
    )
    return ScoredStays(
        split=split,
        stay_id=table["stay_id"].to_numpy()[used],
        label=label[used].astype(np.int64),
        logit=logit[used],
        probability=probability[used],
        calibrated=None if np.isnan(calibrated[used]).any() else calibrated[used],
        unlabelled=int((predicted & np.isnan(label)).sum()),
        without_prediction=dict(reasons),
    )


def read_risk_after_sets(file: Path) -> RiskAfterSets:
    """The risk after every set, in the order of the file. Raises InputError as `read_predictions` does."""
    table = _read(file, {"stay_id": pa.int64()})
    minute, probability = _numbers(table, "minute", file), _numbers(table, "probability", file)
    _check(file, "minute", minute, np.isfinite(minute), "a number")
    _check(file, "probability", probability, (probability >= 0) & (probability <= 1), "between 0 and 1")
    return RiskAfterSets(table["stay_id"].to_numpy(), minute, probability)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """metrics.csv: a dictionary for each validation, without empty cells. Raises InputError for a damaged file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header, rows = list(reader.fieldnames or []), list(reader)
        _require_once(header, ROW_NAMES, file)
        _require_once(header, [name for name in header if name], file)
        found = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
        for at, row in enumerate(found):
            if not all(math.isfinite(row.get(name, math.nan)) for name in ROW_NAMES):
                raise InputError(f"{file}, row {at} (counted from 0): {' or '.join(ROW_NAMES)} is not a number")
        return found
    except InputError:
        raise
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table of numbers ({error})") from None


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
    if "stay_id" in types and table["stay_id"].null_count:
        raise InputError(f"{file}, column stay_id: {table['stay_id'].null_count:,} rows have none")
    return table


def _require_once(there: Sequence[str], names: Sequence[str], file: Path) -> None:
    """Raises InputError unless each of these columns is there, once."""
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(there)}")
    twice = [name for name in names if there.count(name) > 1]
    if twice:
        raise InputError(f"{file}: column {twice[0]} occurs twice; keep one of the two")


def _numbers(table: pa.Table, name: str, file: Path) -> Floats:
    """A column as float64, NaN where it is empty."""
    _require_once(table.column_names, [name], file)
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise InputError(f"{file}, column {name}: not a column of numbers ({error})") from None


def _check(file: Path, column: str, values: Floats, allowed: NDArray[np.bool_], what: str) -> None:
    if not allowed.all():
        example, count = values[int(np.argmin(allowed))], int((~allowed).sum())
        raise InputError(f"{file}, column {column}: {count:,} values are not {what}, for example {example:g}")
