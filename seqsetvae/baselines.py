"""What users would take instead: boosted trees and logistic regression on summaries of each variable.

Trained on the training split, stopped or chosen on the validation split. Legend: n labelled stays, V variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from seqsetvae.architectures.variable_summaries.summaries import SUMMARIES, common_length, stay_hours, summarize
from seqsetvae.batch import Batch
from seqsetvae.loading import CohortDataModule, until
from seqsetvae.trees import MAX_STAYS, lightgbm

WHOLE_STAY = ("count", "mean", "std", "min", "max", "first", "last", "hour_first", "hour_last")
OF_EACH_VARIABLE = (*WHOLE_STAY, "last_0_12h_mean", "last_0_12h_min", "last_0_12h_max")
_COLUMNS = [SUMMARIES.index(name) for name in OF_EACH_VARIABLE]

# Chosen on PhysioNet 2012 (docs/quality.md), to be no straw man.
TREES: dict[str, Any] = {
    "objective": "binary",
    "metric": "average_precision",
    "learning_rate": 0.02,
    "num_leaves": 15,
    "min_data_in_leaf": 30,
    "feature_fraction": 0.3,
    "lambda_l2": 5.0,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
}
MOST_ROUNDS, PATIENCE, SEEDS = 2000, 100, 3
REGULARIZATION = (1e-3, 1e-2, 1e-1)  # C of logistic regression

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


def boosted_trees(train: Table, valid: Table, seeds: int = SEEDS) -> Predict:
    """LightGBM, stopped where average precision on the validation split is highest; mean over seeds."""
    library, boosters = lightgbm(), []
    for seed in range(seeds):
        parameters = TREES | {"seed": seed, "num_threads": torch.get_num_threads()}
        data = library.Dataset(*train)
        stop = library.early_stopping(PATIENCE, verbose=False)
        boosters.append(
            library.train(parameters, data, MOST_ROUNDS, valid_sets=[library.Dataset(*valid)], callbacks=[stop])
        )
    return lambda table: np.mean([booster.predict(table, raw_score=True) for booster in boosters], axis=0)


def logistic_regression(train: Table, valid: Table) -> Predict:
    """Of standardized summaries, the median for missing ones, and flags for them; C is chosen on validation."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(strength: float) -> Any:
        return make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=strength, max_iter=500),
        ).fit(*train)

    models = [fitted(strength) for strength in REGULARIZATION]
    best = max(models, key=lambda model: average_precision_score(valid[1], model.decision_function(valid[0])))
    return best.decision_function


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
    length = common_length(torch.cat([stay_hours(batch) for batch in _batches(data, "train")]))
    (_, train), (_, valid) = (summary_table(data, name, length) for name in ("train", "valid"))
    ids, (table, _) = summary_table(data, split, length)
    return ids, {name: BASELINES[name](train, valid)(table) for name in names}
