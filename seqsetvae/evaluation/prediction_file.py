"""The prediction table as a file: CSV or Parquet, one row for every stay that was asked for.

Legend: n stays.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort import Split
from seqsetvae.evaluation.explain import LEVELS, Explanation
from seqsetvae.evaluation.predictions import Predictions, every_prefix
from seqsetvae.system.files import AlreadyThereError, new_file
from seqsetvae.system.privacy import as_cell
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Calibration, Spec

SUFFIXES = (".csv", ".parquet")
BASE = "(base)"  # in the place of a variable
ROWS_PER_BLOCK = 1 << 16  # of a CSV file, as Python objects at once


def prediction_table(predictions: Predictions, stays: NDArray[np.int64], reasons: Mapping[int, str]) -> pa.Table:
    """One row for each of these stays, in their order: stay_id, split, the columns of the task, its labels, reason.

    `stays` are those of the predictions; a stay with a reason has no prediction.
    """
    of = predictions.rows(np.argsort(predictions.stay_id)[np.argsort(np.argsort(stays))])
    labels = TASKS[of.spec.task].labels(of.spec, of.target)
    known = ~np.isnan(of.target)
    columns = {
        "stay_id": pa.array(stays, pa.int64()),
        "split": pa.array([of.split] * len(stays), pa.string()),
        **task_columns(of.spec, of.output, of.calibration, mask=np.isin(stays, list(reasons))),
    }
    for k, (name, values) in enumerate(labels.items()):
        columns[f"label {name}" if name in (*columns, "reason") else name] = pa.array(values, mask=~known[:, k])
    return pa.table({**columns, "reason": pa.array([reasons.get(stay) for stay in stays.tolist()], pa.string())})


def task_columns(
    spec: Spec, output: NDArray[np.float64], calibration: Calibration | None, mask: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """The columns of a task for outputs [n, O]; rows of the mask are empty, and all that need a calibration."""
    columns = TASKS[spec.task].columns(spec, output, calibration)
    return {
        name: pa.nulls(len(mask), pa.float64()) if values is None else pa.array(values, mask=mask)
        for name, values in columns.items()
    }


def without_prediction(reasons: Sequence[tuple[int, str | None, str]], schema: pa.Schema) -> pa.Table:
    """Rows of stays that are not in the cohort: (stay, split or None, reason)."""
    rows = [{"stay_id": stay, "split": split, "reason": reason} for stay, split, reason in reasons]
    return pa.Table.from_pylist(rows, schema=schema)


def every_set_table(split: Split, output: NDArray[np.float64], spec: Spec, calibration: Calibration | None) -> pa.Table:
    """One row for each set of a split: stay_id, set_index (from 0), minute, and the columns of the task."""
    prefixes = every_prefix(split)
    columns = task_columns(spec, output, calibration, mask=np.zeros(len(output), dtype=bool))
    of_set = {"stay_id": split.stay_id[prefixes.stay], "set_index": prefixes.n_sets - 1, "minute": split.minute}
    return pa.table({name: np.array(values) for name, values in of_set.items()} | columns)


def explanation_table(explanation: Explanation) -> pa.Table:
    """The base, then a row for each summary or event; contributions add up to the score.

    Columns: stay_id, minute, variable, summary, value in the variable's own unit, level (a text of LEVELS),
    contribution.
    """
    names, summaries = np.array(explanation.names), np.array(explanation.summaries)
    rows: dict[str, tuple[Any, Sequence[Any]]] = {
        "stay_id": (explanation.stay_id, [explanation.stay_id] * len(explanation.at)),
        "minute": (explanation.minute, explanation.at.tolist()),
        "variable": (BASE, names[explanation.variable].tolist()),
        "summary": ("", summaries[explanation.summary].tolist()),
        "value": (np.nan, explanation.value.tolist()),
        "level": ("", [LEVELS[each] for each in explanation.level.tolist()]),
        "contribution": (explanation.base, explanation.contribution.tolist()),
    }
    return pa.table({name: pa.array([base, *rest], from_pandas=True) for name, (base, rest) in rows.items()})


def with_calibration(rows: pa.Table, name: str) -> pa.Table:
    """The rows with a column that names the calibration, where it is not that of the training."""
    return rows.append_column("calibration", pa.array([name] * len(rows), pa.string()))


def with_reasons(rows: pa.Table, reasons: Mapping[int, Sequence[str]], number: int) -> pa.Table:
    """The rows with columns contribution_1 to contribution_NUMBER, texts by stay; empty for stays without any."""
    of_rows = [reasons.get(stay, ()) for stay in rows["stay_id"].to_pylist()]
    for place in range(number):
        texts = [row[place] if place < len(row) else None for row in of_rows]
        rows = rows.append_column(f"contribution_{place + 1}", pa.array(texts, pa.string()))
    return rows


def with_ids(rows: pa.Table, samples: pa.Table | None) -> pa.Table:
    """The rows with the columns `id` and `prediction_time` of the imported source, where they say more than stay_id."""
    if samples is None:
        return rows
    samples = _samples_of(rows, samples)
    is_stay = pc.equal(samples["id"], samples["stay_id"].cast(pa.string()))
    if pc.all(is_stay).as_py() and samples["prediction_time"].null_count == len(samples):
        return rows
    return rows.append_column("id", samples["id"]).append_column("prediction_time", samples["prediction_time"])


def _samples_of(rows: pa.Table, samples: pa.Table) -> pa.Table:
    """The sample of each row."""
    order = np.argsort(samples["stay_id"].to_numpy())
    at = np.searchsorted(samples["stay_id"].to_numpy(), rows["stay_id"].to_numpy(), sorter=order)
    return samples.take(pa.array(order[at]))


def samples_have_dates(samples: pa.Table | None) -> bool:
    """Whether the samples of an import are at points of time, and not at minutes since admission."""
    return samples is not None and pa.types.is_timestamp(samples.schema.field("start").type)


def meds_table(
    rows: pa.Table, last_minute: NDArray[np.float64], threshold: float | None, samples: pa.Table | None = None
) -> pa.Table:
    """The rows that have a prediction, in the prediction schema of MEDS (meds-evaluation).

    `last_minute` [n] is the time of each row's last event; times here are minutes since admission, which MEDS has no
    column for, so prediction_time counts them from 1970-01-01 00:00. With `samples` of an import that has dates, rows
    are of its subjects, at its prediction times, or else at their last events. The probability is the calibrated one if
    there is one. Without a threshold there is no predicted_boolean_value.
    """
    calibrated = rows["calibrated_probability"].null_count < len(rows)
    probability = rows["calibrated_probability" if calibrated else "probability"]
    predicted = probability.to_numpy() >= (np.nan if threshold is None else threshold)
    micros = np.rint(np.nan_to_num(last_minute) * 60e6).astype(np.int64)
    subject, time = rows["stay_id"], pa.chunked_array([pa.array(micros)])
    if samples is not None and samples_have_dates(samples):
        samples = _samples_of(rows, samples)
        last_event = pc.add(samples["start"].cast(pa.int64()), time)
        subject, time = samples["subject_id"], pc.coalesce(samples["prediction_time"].cast(pa.int64()), last_event)
    table = pa.table(
        {
            "subject_id": subject,
            "prediction_time": time.cast(pa.timestamp("us")),
            "boolean_value": rows["label"].cast(pa.bool_()),
            "predicted_boolean_value": pa.array(predicted, mask=np.full(len(rows), threshold is None)),
            "predicted_boolean_probability": probability,
        }
    )
    return table.filter(rows["logit"].is_valid())


# ------------------------------------------------------------------ writing


def write_table(path: Path, table: pa.Table) -> None:
    """Write a new .csv or .parquet file. Raises AlreadyThereError, CannotWriteError."""
    with new_file(path, replace=False) as stream:
        _write(stream, table, path.suffix)


def table_bytes(table: pa.Table, suffix: str) -> bytes:
    """A table as the content of a file of this suffix, .csv or .parquet."""
    stream = io.BytesIO()
    _write(stream, table, suffix)
    return stream.getvalue()


def _write(stream: BinaryIO, table: pa.Table, suffix: str) -> None:
    if suffix == ".parquet":
        pq.write_table(table, stream)
    else:
        _write_csv(stream, table)


def _write_csv(stream: BinaryIO, table: pa.Table) -> None:
    """Write CSV: numbers read back to the same bits, missing cells are empty, no text is a formula."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_as_text, table.column_names))
    for block in table.to_batches(max_chunksize=ROWS_PER_BLOCK):
        writer.writerows(zip(*map(_cells, block.columns), strict=True))
    text.detach()  # flushes; the stream stays open


def _cells(column: pa.Array) -> list[Any]:
    cells = column.to_pylist()
    return [None if cell is None else _as_text(cell) for cell in cells] if pa.types.is_string(column.type) else cells


def _as_text(text: str) -> str:
    """A carriage return, which the csv module does not quote beside this line end, would begin a row."""
    return as_cell(text.replace("\r", " "))


def write_result(target: Path, content: bytes) -> Path | None:
    """Write a result; an older one of other content is kept beside it, under its name with its date.

    Returns:
        The path of the older file, if there was one.

    Raises:
        CannotWriteError: the older file is then as it was.
    """
    kept = None
    if target.exists():
        older = target.read_bytes()
        if older == content:
            return None
        kept = _keep(target, older)
    with new_file(target) as stream:
        stream.write(content)
    return kept


def set_aside(file: Path) -> Path | None:
    """Give a result, if it is there, its name with its date. Returns its new path. Raises CannotWriteError."""
    if not file.exists():
        return None
    kept = _keep(file, file.read_bytes())
    file.unlink()
    return kept


def _keep(target: Path, content: bytes) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(target.stat().st_mtime))
    for attempt in range(1000):
        name = f"{target.stem}-{stamp}" + (f"-{attempt + 1}" if attempt else "") + target.suffix
        try:
            with new_file(target.with_name(name), replace=False) as stream:
                stream.write(content)
        except AlreadyThereError:
            continue
        return target.with_name(name)
    raise AlreadyThereError(f"{target}: 1,000 older files of {stamp} are kept beside it. Delete some of them.")
