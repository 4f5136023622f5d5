"""Fits of the baselines: boosted trees and linear models on tables of summaries.

Legend: n stays, c columns, K columns of labels, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.models.trees import lightgbm

Floats = NDArray[np.float64]
Table = tuple[np.ndarray, Floats]  # [n, c] with NaN for missing, targets [n] or [n, K]
Predict = Callable[[np.ndarray], Floats]

# Chosen on PhysioNet 2012 (docs/quality.md), so that the baseline is strong.
TREES: dict[str, Any] = {
    "learning_rate": 0.02,
    "num_leaves": 15,
    "feature_fraction": 0.3,
    "lambda_l2": 5.0,
    "verbose": -1,
    "deterministic": True,
    "force_row_wise": True,
}
BINARY_TREES = {"objective": "binary", "metric": "average_precision"}
REGRESSION_TREES = {"objective": "regression", "metric": "l2"}
LEAF, LEAVES = 30, 20  # fewest stays in a leaf; of fewer than 600 stays so many fewer that 20 leaves have them
MOST_ROUNDS, PATIENCE, SEEDS = 2000, 100, 3
REGULARIZATION = (1e-3, 1e-2, 1e-1)  # C of logistic regression
RIDGE = (1e2, 1e3, 1e4)  # alpha of ridge regression


def boosted_trees(
    train: Table, valid: Table, seeds: int = SEEDS, objective: Mapping[str, Any] = BINARY_TREES
) -> Predict:
    """LightGBM, stopped where its metric on the validation split is best; mean over seeds of the raw scores."""
    library, boosters = lightgbm(), []
    for seed in range(seeds):
        leaf = {"min_data_in_leaf": max(1, min(LEAF, len(train[0]) // LEAVES))}
        parameters = {**TREES, **leaf, **objective, "seed": seed, "num_threads": torch.get_num_threads()}
        stop = library.early_stopping(PATIENCE, verbose=False)
        sets = [library.Dataset(*each) for each in (train, valid)]
        boosters.append(library.train(parameters, sets[0], MOST_ROUNDS, valid_sets=[sets[1]], callbacks=[stop]))
    return lambda table: np.mean([booster.predict(table, raw_score=True) for booster in boosters], axis=0)


def regression_trees(train: Table, valid: Table) -> Predict:
    """Boosted trees for numbers."""
    return boosted_trees(train, valid, objective=REGRESSION_TREES)


def multiclass_trees(train: Table, valid: Table, classes: int) -> Predict:
    """Boosted trees for classes: outputs [n, C]."""
    objective = {"objective": "multiclass", "metric": "multi_logloss", "num_class": classes}
    return boosted_trees(_known(train, 0), _known(valid, 0), objective=objective)


def logistic_regression(train: Table, valid: Table) -> Predict:
    """Logistic regression on standardized summaries, with medians and flags for missing ones; C by validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    models = [_fitted(LogisticRegression(C=strength, max_iter=500), train) for strength in REGULARIZATION]
    best = max(models, key=lambda model: average_precision_score(valid[1], model.decision_function(valid[0])))
    return best.decision_function


def multinomial_regression(train: Table, valid: Table) -> Predict:
    """Logistic regression for classes: log-probabilities [n, C]; C is chosen by the log loss on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, valid = _known(train, 0), _known(valid, 0)
    models = [_fitted(LogisticRegression(C=strength, max_iter=500), train) for strength in REGULARIZATION]
    classes = models[0].classes_
    best = min(models, key=lambda model: log_loss(valid[1], model.predict_proba(valid[0]), labels=classes))
    return best.predict_log_proba


def ridge_regression(train: Table, valid: Table) -> Predict:
    """Ridge regression for numbers; the penalty is chosen by the squared error on validation."""
    from sklearn.linear_model import Ridge

    models = [_fitted(Ridge(alpha=strength), train) for strength in RIDGE]
    best = min(models, key=lambda model: float(np.mean((model.predict(valid[0]) - valid[1]) ** 2)))
    return best.predict


def each_column(fit: Callable[[Table, Table], Predict], train: Table, valid: Table) -> Predict:
    """A model for each column of the targets [n, K], on the stays that have it: outputs [n, K]."""
    models = [fit(_known(train, k), _known(valid, k)) for k in range(train[1].shape[1])]
    return lambda table: np.stack([model(table) for model in models], axis=1)


def _known(table: Table, k: int) -> Table:
    """The stays that have a label in column k, and these labels [n]."""
    known = ~np.isnan(table[1][:, k])
    return table[0][known], table[1][known, k]


def _fitted(model: Any, train: Table) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(impute, StandardScaler(), model).fit(*train)
