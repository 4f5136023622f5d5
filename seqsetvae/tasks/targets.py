"""The labels of a task other than one binary label, as targets of a cohort.

Legend: n stays of a split, K columns of labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.batches.loading import require_both_classes
from seqsetvae.cohort import Cohort, Split, is_compiled
from seqsetvae.cohort.sources.seqsetvae_layout import SideFiles, locate_layout
from seqsetvae.settings.groups import DataSettings
from seqsetvae.system.errors import InputError
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.label_file import TaskLabels
from seqsetvae.tasks.spec import Spec, columns_of, one_label

TARGETS = "targets"  # in the manifest of a cohort with targets: the file of labels, and the Spec


class TargetSplit(Split):
    """A split with targets. Its label is 0 where a stay has a target in any column, and -1 where it has none."""

    target: NDArray[np.float32]  # [n, K] as the loss reads them, NaN = none

    def __init__(self, of: Split, truth: NDArray[np.float64], target: NDArray[np.float32]) -> None:
        """`truth` are the targets in their own unit."""
        vars(self).update(vars(of) | {"value": of.value})
        self.of, self.truth, self.target = of, truth, target
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
    found = None
    if not is_compiled(data.data_dir):
        found = locate_layout(data.data_dir, SideFiles(data.params_map_path, None, data.embeddings_path)).labels
    if found is None:
        raise InputError(
            f"{data.data_dir}: has no file of labels; pass --label_path, a .csv or .parquet file with the "
            "ids of the stays (ts_id) and the columns of --label_name. A compiled cohort holds one binary label alone."
        )
    return found


def without_label(data: DataSettings) -> DataSettings:
    """The settings of the data without those of the labels, which are read apart from them."""
    return replace(data, label_name=None, label_path=None)


def fit_targets(cohort: Cohort, file: TaskLabels, task: str) -> Cohort:
    """The cohort with the targets of a task, whose Spec is that of the labelled training stays.

    Raises:
        InputError: labels that the task cannot have, or a split without any.
    """
    cohort.split("train")
    cells = file.of(cohort)["train"]
    spec = TASKS[task].fit(file.names, cells[(cells != "").any(axis=1)], str(file.path))
    return with_targets(cohort, file, spec)


def with_targets(cohort: Cohort, file: TaskLabels, spec: Spec) -> Cohort:
    """The cohort with the targets of a Spec; its content hash covers them. Raises InputError as `fit_targets`."""
    splits: dict[str, Split] = {}
    total = hashlib.sha256(repr(spec).encode())
    cells = file.of(cohort)
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
        found = stays.truth
    elif spec == one_label(cohort.label_name):
        found = np.where(stays.label < 0, np.nan, stays.label)[:, None]
    else:  # labels of something else, or none
        found = np.full((stays.n_stays, len(spec.names)), np.nan)
    if stay_id is None:
        return found
    order = np.argsort(stays.stay_id)
    return found[order[np.searchsorted(stays.stay_id, stay_id, sorter=order)]]
