"""The labels of a task other than one binary label: read from a file and joined to a cohort by stay.

Legend: n stays of a split, K columns of labels, m rows of the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqsetvae.cohort import Cohort, Split, is_compiled
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.cohort.sources.layout_files import SideFiles, locate_layout
from seqsetvae.errors import InputError
from seqsetvae.settings.groups import DataSettings
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec, columns_of

STAY_COLUMNS = ("ts_id", "stay_id")
TARGETS = "targets"  # in the manifest of a cohort with targets: the file of labels, and the Spec


class TargetSplit(Split):
    """A split with targets. Its label is 0 where a stay has a target in any column, and -1 where it has none."""

    target: NDArray[np.float32]  # [n, K] as the loss reads them, NaN = none

    def __init__(self, of: Split, truth: NDArray[np.float64], target: NDArray[np.float32]) -> None:
        """`truth` are the targets in their own unit."""
        vars(self).update(vars(of))
        self.of, self.truth, self.target = of, truth, target
        self.label = np.where(np.isnan(truth).all(axis=1), -1, 0).astype(np.int8)

    def __reduce__(self) -> tuple[Any, ...]:
        return TargetSplit, (self.of, self.truth, self.target)


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Columns of a file of labels, as text."""

    path: Path
    names: tuple[str, ...]
    stay_id: NDArray[np.int64]  # [m] ascending
    cells: NDArray[np.str_]  # [m, K], empty where there is no label

    def of(self, stays: NDArray[np.int64]) -> NDArray[np.str_]:
        """[n, K] the cells of these stays, empty for those that are not in the file."""
        at = np.minimum(np.searchsorted(self.stay_id, stays), len(self.stay_id) - 1)
        found = self.cells[at]
        found[self.stay_id[at] != stays] = ""
        return found


def label_file(data: DataSettings) -> Path:
    """The file of labels: label_path, or the one beside an old layout.

    Raises:
        InputError: there is none.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    if data.label_path is not None:
        return data.label_path
    found = None
    if not is_compiled(data.data_dir):
        found = locate_layout(data.data_dir, SideFiles(data.params_map_path, None, data.embeddings_path)).labels
    if found is None:
        raise InputError(
            f"{data.data_dir}: has no file of labels; pass --label_path, a .csv or .parquet file with the "
            "column ts_id and those of --label_name. A compiled cohort holds one binary label alone."
        )
    return found


def without_label(data: DataSettings) -> DataSettings:
    """The settings of the data without those of the labels, which are read apart from them."""
    return replace(data, label_name=None, label_path=None)


def read_label_file(path: Path, names: tuple[str, ...]) -> LabelFile:
    """Read these columns.

    Raises:
        InputError: it cannot be read, a column is missing, a stay is not a number, or occurs twice.
    """
    try:
        is_parquet = path.suffix == ".parquet"
        table = pq.read_table(path) if is_parquet else pacsv.read_csv(path, convert_options=_as_text(path))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    stay_column = next((name for name in STAY_COLUMNS if name in table.column_names), None)
    missing = [name for name in names if name not in table.column_names]
    if stay_column is None or missing:
        raise InputError(
            f"{path}: has no column {missing[0] if missing else STAY_COLUMNS[0]!r}. Its columns are: "
            f"{', '.join(table.column_names)}. --label_name lists the columns to predict, separated by commas."
        )
    texts = [_text(table[name]) for name in (stay_column, *names)]
    stays = [stay_number(text) for text in texts[0].tolist()]
    if None in stays:
        row = stays.index(None)
        raise InputError(f"{path}, row {row} (counted from 0): {stay_column} is {texts[0][row]!r}, not a whole number")
    stay_id = np.array(stays, dtype=np.int64)
    order = np.argsort(stay_id, kind="stable")
    again = np.flatnonzero(np.diff(stay_id[order]) == 0)
    if len(again) or not len(order):
        what = f"stay {stay_id[order][again[0]]} occurs twice; give each stay one row" if len(order) else "has no rows"
        raise InputError(f"{path}: {what}")
    return LabelFile(path, names, stay_id[order], np.stack(texts[1:], axis=1)[order])


def _as_text(path: Path) -> pacsv.ConvertOptions:
    with pacsv.open_csv(path) as reader:
        names = reader.schema.names
    return pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)


def _text(column: pa.ChunkedArray) -> NDArray[np.str_]:
    if pa.types.is_floating(column.type):  # NaN of pandas is an empty cell
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.array(pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null("")).to_pylist(), dtype=np.str_)


def fit_targets(cohort: Cohort, file: LabelFile, task: str) -> Cohort:
    """The cohort with the targets of a task, whose Spec is that of the labelled training stays.

    Raises:
        InputError: labels that the task cannot have, or a split without any.
    """
    cells = file.of(cohort.split("train").stay_id)
    spec = TASKS[task].fit(file.names, cells[(cells != "").any(axis=1)], str(file.path))
    return with_targets(cohort, file, spec)


def with_targets(cohort: Cohort, file: LabelFile, spec: Spec) -> Cohort:
    """The cohort with the targets of a Spec; its content hash covers them. Raises InputError as `fit_targets`."""
    splits: dict[str, Split] = {}
    total = hashlib.sha256(repr(spec).encode())
    for name, split in cohort.splits.items():
        truth = TASKS[spec.task].parse(spec, file.of(split.stay_id), str(file.path))
        encoded = TASKS[spec.task].encode(spec, truth).astype(np.float32)
        splits[name] = TargetSplit(split, truth, encoded)
        total.update(truth.tobytes())
    manifest = {
        **cohort.manifest,
        # Another content hash: cached features hold the labelled stays only.
        "checksums": {**cohort.manifest["checksums"], TARGETS: total.hexdigest()},
        TARGETS: {"file": str(file.path.resolve()), "spec": spec.as_plain(), "events": cohort.content_hash},
    }
    return replace(cohort, splits=splits, manifest=manifest, label_name=spec.title)


def require_targets(cohort: Cohort, *splits: str) -> None:
    """Raises InputError unless each of these splits has a stay with a label in every column."""
    for name in splits:
        split = cohort.split(name)
        assert isinstance(split, TargetSplit)
        for column, truth in zip(columns_of(cohort.label_name), split.truth.T, strict=True):
            if np.isnan(truth).all():
                raise InputError(
                    f"{cohort.manifest[TARGETS]['file']}: none of the {split.n_stays:,} stays of the split {name!r} "
                    f"has a label in the column {column!r}. Check the column and the stay ids (ts_id)."
                )


def spec_of(cohort: Cohort) -> Spec | None:
    """The task of a cohort with targets; None: it has its one binary label."""
    recorded = cohort.manifest.get(TARGETS)
    return None if recorded is None else Spec.from_plain(recorded["spec"])
