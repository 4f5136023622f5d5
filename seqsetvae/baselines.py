"""What users would take instead: boosted trees and logistic regression on summaries of each variable.

Trained on the training split, stopped or chosen on the validation split. Legend: n labelled stays, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import numpy as np
import torch

from seqsetvae.architectures.variable_summaries.summaries import SUMMARIES, common_length, stay_hours, summarize
from seqsetvae.batch import Batch
from seqsetvae.loading import CohortDataModule, until
from seqsetvae.tasks.fitting import boosted_trees, logistic_regression
from seqsetvae.trees import MAX_STAYS

WHOLE_STAY = ("count", "mean", "std", "min", "max", "first", "last", "hour_first", "hour_last")
OF_EACH_VARIABLE = (*WHOLE_STAY, "last_0_12h_mean", "last_0_12h_min", "last_0_12h_max")
_COLUMNS = [SUMMARIES.index(name) for name in OF_EACH_VARIABLE]

Table = tuple[np.ndarray, np.ndarray]  # [n, 12 V] with NaN for missing, labels [n]
Predict = Callable[[np.ndarray], np.ndarray]  # [n, 12 V] → log-odds [n]


def summary_table(data: CohortDataModule, split: str, length: float = 0.0) -> tuple[np.ndarray, Table]:
    """Stay ids [n], ascending, and the table of a split's labelled stays; `length` as in `summarize`.

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
    return stay_id[order], (table[order], label[order])


def _batches(data: CohortDataModule, split: str) -> Iterable[Batch]:
    """All stays of a split; of the training split at most MAX_STAYS."""
    is_cut = split == "train" and data.n_selected(split) > MAX_STAYS
    batches = data.with_prepare(None).loader(split, shuffle=is_cut)
    return until(batches, MAX_STAYS) if is_cut else batches


def summary_tables(data: CohortDataModule, *splits: str) -> list[tuple[np.ndarray, Table]]:
    """`summary_table` of each of these splits, on the clock of the training stays."""
    length = common_length(torch.cat([stay_hours(batch) for batch in _batches(data, "train")]))
    return [summary_table(data, name, length) for name in splits]


BASELINES: dict[str, Callable[[Table, Table], Predict]] = {
    "boosted trees": boosted_trees,
    "logistic regression": logistic_regression,
}


def without_library() -> dict[str, str]:
    """The baselines that cannot be trained because a library is not installed, and what to do."""
    if find_spec("lightgbm") is not None:
        return {}
    return {"boosted trees": "lightgbm is not installed (pip install lightgbm)."}


def baseline_log_odds(
    data: CohortDataModule, split: str, names: Iterable[str] = tuple(BASELINES)
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Stay ids [n] of a split's labelled stays, ascending, and for each of these baselines their log-odds [n]."""
    (_, train), (_, valid), (ids, (table, _)) = summary_tables(data, "train", "valid", split)
    return ids, {name: BASELINES[name](train, valid)(table) for name in names}
