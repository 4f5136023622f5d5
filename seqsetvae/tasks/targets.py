"""The labels of a task other than one binary label: their file, and which row of it is that of which stay of a cohort.

A cohort of one file a stay has the numbers of stays. An imported one has numbers of its own (`stay_id`) and keeps the
ids and prediction times of its source in samples.parquet: labels are joined to those.

Legend: n stays of a split, N of all, K columns of labels, R rows of the file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.batches.loading import require_both_classes
from seqsetvae.cohort import Cohort, Split, is_compiled
from seqsetvae.cohort.imported import (
    ID_COLUMN,
    IMPORT,
    PREDICTION_TIME,
    TIME_COLUMN,
    TIMESTAMPS,
    read_samples,
)
from seqsetvae.cohort.names import columns_are
from seqsetvae.cohort.sources.seqsetvae_layout import SideFiles, locate_layout
from seqsetvae.cohort.tables.forms import table_files
from seqsetvae.cohort.tables.labels import LabelFile
from seqsetvae.cohort.tables.read import Part, column_names, read_table
from seqsetvae.cohort.tables.times import MINUTES, TimeColumn, TimeFlags
from seqsetvae.settings.groups import DataSettings
from seqsetvae.system.errors import InputError, shown
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec, columns_of, one_label

TARGETS = "targets"  # in the manifest of a cohort with targets: the file of labels, and the Spec


class TargetSplit(Split):
    """A split with targets. Its label is 0 where a stay has a target in any column, and -1 where it has none."""

    target: NDArray[np.float32]  # [n, K] as the loss reads them, NaN = none

    def __init__(self, split: Split, truth: NDArray[np.float64], target: NDArray[np.float32]) -> None:
        """`truth` are the targets in their own unit."""
        vars(self).update(vars(split) | {"value": split.value})
        self.of, self.truth, self.target = split, truth, target
        self.label = np.where(np.isnan(truth).all(axis=1), -1, 0).astype(np.int8)

    def __reduce__(self) -> tuple[Any, ...]:
        return TargetSplit, (self.of, self.truth, self.target)


def label_file(data: DataSettings) -> Path:
    """The file of labels: label_path, or the one beside an old layout.

    Raises:
        InputError: there is none.
    """
    assert data.data_dir is not None, "settings are checked before a mode runs"
    if data.label_path is not None:
        return data.label_path
    file = None
    if not is_compiled(data.data_dir):
        file = locate_layout(data.data_dir, SideFiles(data.params_map_path, None, data.embeddings_path)).labels
    if file is None:
        raise InputError(
            f"{data.data_dir}: has no file of labels; pass --label_path, a .csv or .parquet file with the "
            "ids of the stays (ts_id) and the columns of --label_name. A compiled cohort holds one binary label alone."
        )
    return file


def without_label(data: DataSettings) -> DataSettings:
    """The settings of the data without those of the labels, which are read apart from them."""
    return replace(data, label_name=None, label_path=None)


def fit_targets(cohort: Cohort, file: TaskLabels, task: str) -> Cohort:
    """The cohort with the targets of a task, whose Spec is that of the labelled training stays.

    Raises:
        InputError: labels that the task cannot have, or a split without any.
    """
    cohort.split("train")
    cells = file.cells_by_split(cohort)["train"]
    spec = TASKS[task].fit(file.names, cells[(cells != "").any(axis=1)], str(file.path))
    return with_targets(cohort, file, spec)


def with_targets(cohort: Cohort, file: TaskLabels, spec: Spec) -> Cohort:
    """The cohort with the targets of a Spec; its content hash covers them. Raises InputError as `fit_targets`."""
    splits: dict[str, Split] = {}
    total = hashlib.sha256(repr(spec).encode())
    cells = file.cells_by_split(cohort)
    for name, split in cohort.splits.items():
        truth = TASKS[spec.task].parse(spec, cells[name], str(file.path))
        encoded = TASKS[spec.task].encode(spec, truth).astype(np.float32)
        splits[name] = TargetSplit(split, truth, encoded)
        total.update(truth.tobytes())
    manifest = {
        **cohort.manifest,
        # Another content hash: cached features hold the labelled stays only.
        "checksums": {**cohort.manifest["checksums"], TARGETS: total.hexdigest()},
        TARGETS: {"file": str(file.path.resolve()), "spec": spec.as_plain(), "events": cohort.data_hash},
    }
    return replace(cohort, splits=splits, manifest=manifest, label_name=spec.title)


def with_targets_of(fold: Cohort, cohort: Cohort) -> Cohort:
    """A fold of the training stays, with their targets; one binary label is in the fold already."""
    spec, splits = spec_of(cohort), dict[str, Split]()
    if TARGETS not in cohort.manifest:
        return fold
    for name, part in fold.splits.items():
        of_part = truth(cohort, "train", spec, part.stay_id)
        splits[name] = TargetSplit(part, of_part, TASKS[spec.task].encode(spec, of_part).astype(np.float32))
    return replace(fold, splits=splits)


def require_targets(cohort: Cohort, *splits: str) -> None:
    """Raises InputError unless each of these splits has labels that can be ranked, or a label in every column."""
    if TARGETS not in cohort.manifest:
        require_both_classes(cohort, *splits)
        return
    for name in splits:
        split = cohort.split(name)
        assert isinstance(split, TargetSplit)
        for column, truth in zip(columns_of(cohort.label_name), split.truth.T, strict=True):
            if np.isnan(truth).all():
                raise InputError(
                    f"{cohort.manifest[TARGETS]['file']}: none of the {split.n_stays:,} stays of the split {name!r} "
                    f"has a label in the column {column!r}. Check the column, and the ids and prediction times."
                )


def spec_of(cohort: Cohort) -> Spec:
    """The task of a cohort with targets; without, its one binary label."""
    recorded = cohort.manifest.get(TARGETS)
    return one_label(cohort.label_name) if recorded is None else Spec.from_plain(recorded["spec"])


def truth(cohort: Cohort, split: str, spec: Spec, stay_id: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """The targets [n, K] of these stays of a split, by default of all, in their own unit; NaN where it has none."""
    stays = cohort.split(split)
    if isinstance(stays, TargetSplit):
        target = stays.truth
    elif spec == one_label(cohort.label_name):
        target = np.where(stays.label < 0, np.nan, stays.label)[:, None]
    else:  # labels of something else, or none
        target = np.full((stays.n_stays, len(spec.names)), np.nan)
    if stay_id is None:
        return target
    order = np.argsort(stays.stay_id)
    return target[order[np.searchsorted(stays.stay_id, stay_id, sorter=order)]]


# ------------------------------------------------------------------ a file of labels


STAY_COLUMNS = ("ts_id", "stay_id", "id")
SUBJECT = "subject_id"  # the id of a MEDS data set


@dataclass(frozen=True, eq=False)
class TaskLabels:
    """The labels of a file, or of a folder of them."""

    file: LabelFile
    names: tuple[str, ...]  # of the labels
    cells: NDArray[np.str_]  # [R, K] labels as text, empty where there is none

    @property
    def path(self) -> Path:
        """The file, or the folder."""
        return self.file.path

    def cells_by_split(self, cohort: Cohort) -> dict[str, NDArray[np.str_]]:
        """Cells of the stays by split [n, K], empty for those that are not in the file.

        Raises:
            InputError: no column of ids, an id that is missing or no number where it must be one, two rows for one
                stay, a row that is that of several samples, or no row of any stay.
        """
        row_of = self._rows(cohort)
        stays = np.concatenate([split.stay_id for split in cohort.splits.values()])
        if row_of.keys().isdisjoint(stays.tolist()):
            first_id = self.file.first_cell(self._id_column(cohort))
            raise InputError(
                f"{self.path}: no row is of a stay of {cohort.path}. Its first id is {shown(first_id)}, "
                f"that of the data is {shown(_source_id(cohort, int(stays[0])))}. Write ids (and prediction times) in "
                "the same way in both."
            )
        cells = {}
        for name, split in cohort.splits.items():
            rows = np.array([row_of.get(stay, -1) for stay in split.stay_id.tolist()], dtype=np.int64)
            cells[name] = np.where(rows[:, None] >= 0, self.cells[rows], "")
        return cells

    def _rows(self, cohort: Cohort) -> dict[int, int]:
        """stay_id → row of the file."""
        id_column, samples = self._id_column(cohort), read_samples(cohort)
        if samples is None:
            numbers = self.file.numbers(id_column)
            self._refuse_contradictions(id_column, numbers)
            return dict(zip(numbers.tolist(), range(len(numbers)), strict=True))
        ids = self.file.ids(id_column, samples["id"].combine_chunks())
        codes = ids.dictionary_encode().indices.to_numpy()
        of_import = cohort.manifest.get(IMPORT, {})
        stays, of_samples = samples["stay_id"].to_pylist(), samples["id"].to_pylist()
        time_column = of_import.get(TIME_COLUMN) or PREDICTION_TIME
        if not self.file.is_filled(time_column):
            self._refuse_contradictions(id_column, codes)
            row_of = dict(zip(ids.to_pylist(), range(len(ids)), strict=True))
            several = [text for text, n in Counter(of_samples).items() if n > 1 and text in row_of]
            if several:
                raise InputError(
                    f"{self.file.place(row_of[several[0]])}: the id {several[0]!r} has several samples in the "
                    f"cohort, at different prediction times. Add {PREDICTION_TIME}, the time of each label."
                )
            return {stay: row_of[text] for stay, text in zip(stays, of_samples, strict=True) if text in row_of}
        if samples[PREDICTION_TIME].null_count == len(samples):
            raise InputError(
                f"{self.path}: has prediction times in {time_column}, but the stays of {cohort.path} have none, so the "
                "model would see what came after them. Import the data again with --labels and these times."
            )
        times = self._times(time_column, samples, of_import)
        self._refuse_contradictions(id_column, times, codes)
        of_key = dict(zip(zip(ids.to_pylist(), times.tolist(), strict=True), range(len(ids)), strict=True))
        keys = zip(of_samples, _plain_times(samples[PREDICTION_TIME], of_import), strict=True)
        return {stay: of_key[key] for stay, key in zip(stays, keys, strict=True) if key in of_key}

    def _refuse_contradictions(self, id_column: str, *keys: NDArray[Any]) -> None:
        self.file.refuse_contradictions(
            id_column,
            keys,
            [np.unique(column, return_inverse=True)[1] for column in self.cells.T],
            np.arange(len(self.file)),
        )

    def _id_column(self, cohort: Cohort) -> str:
        """The first of the names that the column of ids may have."""
        usual, recorded = STAY_COLUMNS, cohort.manifest.get(IMPORT)
        if recorded is not None:
            is_meds = cohort.manifest["source"].startswith("MEDS")
            usual = (recorded.get(ID_COLUMN, "id"), "id", "ts_id", "stay_id", *([SUBJECT] * is_meds))
        name = next((name for name in usual if name in self.file.columns), None)
        if name is None:
            named = " or ".join(dict.fromkeys(usual))
            raise InputError(f"{self.path}: has no column of ids: {named}. {columns_are(self.file.columns)}")
        return name

    def _times(self, name: str, samples: pa.Table, of_import: Mapping[str, Any]) -> NDArray[Any]:
        """[R] Prediction times on the clock of the samples."""
        unit = of_import.get("times", "minutes")
        unit = "minutes" if unit == TIMESTAMPS else unit
        form, zone, decimal = (of_import.get(name) for name in ("time_format", "time_zone", "decimal"))
        of_samples = TimeColumn(samples[PREDICTION_TIME].combine_chunks(), TimeFlags(unit))
        times, _ = self.file.times(name, of_samples, TimeFlags(unit, form, zone, decimal=decimal or "."))
        assert times is not None, "the column is filled"
        return times


def _source_id(cohort: Cohort, stay: int) -> object:
    """What the source calls a stay."""
    samples = read_samples(cohort)
    if samples is None:
        return stay
    return dict(zip(samples["stay_id"].to_pylist(), samples["id"].to_pylist(), strict=True)).get(stay, stay)


def _plain_times(column: pa.ChunkedArray, of_import: Mapping[str, Any]) -> list[Any]:
    """Times in microseconds, or in minutes; None where there is none."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()
    factor = MINUTES[of_import["times"]]
    return [None if number is None else number * factor for number in column.to_pylist()]


def read_label_file(path: Path, names: tuple[str, ...]) -> TaskLabels:
    """Read a file of labels, or all files of a folder.

    Raises:
        InputError: it cannot be read, has no rows, or lacks one of the columns `names`.
    """
    parts: list[Part] = []
    for file in [path] if path.is_file() else table_files(path):
        there = column_names(file)
        missing = [name for name in names if name not in there]
        if missing:
            raise InputError(
                f"{file}: has no column {missing[0]!r}. {columns_are(there)} --label_name lists the "
                "columns to predict, separated by commas."
            )
        parts.append(Part(file, 0, read_table(file, there)))
    labels = LabelFile(parts, path)
    if not len(labels):
        raise InputError(f"{path}: has no rows")
    return TaskLabels(labels, names, np.stack([labels.texts(name) for name in names], axis=1))
