"""Baselines: boosted trees and logistic regression on summaries of each variable.

Trained on the training split, stopped or chosen on the validation split. Legend: n labelled stays, V variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import CohortDataModule, take_stays
from seqsetvae.models.trees import MAX_STAYS
from seqsetvae.models.variable_summaries.summaries import SUMMARIES, common_length, stay_hours, summarize
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Spec
from seqsetvae.tasks.targets import truth

WHOLE_STAY = ("count", "mean", "std", "min", "max", "first", "last", "hour_first", "hour_last")
OF_EACH_VARIABLE = (*WHOLE_STAY, "last_0_12h_mean", "last_0_12h_min", "last_0_12h_max")
_COLUMNS = [SUMMARIES.index(name) for name in OF_EACH_VARIABLE]


def summary_table(data: CohortDataModule, split: str, length: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(ids [n], ascending; [n, 12 V] with NaN for missing) of a split's labelled stays; `length` as in `summarize`.

    At most MAX_STAYS stays of the training split, in random order.
    """
    n_variables = len(data.cohort.vocabulary)
    ids, rows, labels = [], [], []
    for batch in _batches(data, split):
        pairs = summarize(batch, batch.variable, batch.value, length)
        dense = np.full((batch.n_stays, n_variables, len(_COLUMNS)), np.nan, dtype=np.float32)
        dense[pairs.stay.numpy(), pairs.variable.numpy()] = pairs.values[:, _COLUMNS].numpy()
        ids.append(batch.stay_id.numpy())
        labels.append(batch.label.numpy())
        rows.append(dense.reshape(batch.n_stays, -1))
    stay_id, table, label = np.concatenate(ids), np.concatenate(rows), np.concatenate(labels)
    order = np.argsort(stay_id)[label[np.argsort(stay_id)] >= 0]
    return stay_id[order], table[order]


def _batches(data: CohortDataModule, split: str) -> Iterable[Batch]:
    """All stays of a split; of the training split at most MAX_STAYS."""
    is_cut = split == "train" and data.n_selected(split) > MAX_STAYS
    batches = data.with_prepare(None).loader(split, shuffle=is_cut)
    return take_stays(batches, MAX_STAYS) if is_cut else batches


def without_library() -> dict[str, str]:
    """The baselines that cannot be trained because a library is not installed, and what to do."""
    if find_spec("lightgbm") is not None:
        return {}
    return {"boosted trees": "lightgbm is not installed (pip install lightgbm)."}


def baseline_outputs(
    spec: Spec, data: CohortDataModule, split: str, names: Iterable[str] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Stay ids [n] of a split's labelled stays, ascending, and for each of the task's baselines outputs [n, O]."""
    length = common_length(torch.cat([stay_hours(batch) for batch in _batches(data, "train")]))  # the clock of training
    tables = []
    for name in ("train", "valid", split):
        ids, table = summary_table(data, name, length)
        tables.append((table, truth(data.cohort, name, spec, ids)))
    fits = TASKS[spec.task].baselines(spec)
    return ids, {name: fits[name](*tables[:2])(tables[2][0]) for name in (names or fits)}
