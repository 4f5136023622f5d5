"""Fits of boosted trees and linear models on tables of summaries: the baselines, and the members of an average.

Legend: n stays, c columns, K columns of labels, O outputs, o of one column, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.models.linear import Loss, Solve, log_loss, logistic
from seqsetvae.models.trees import BINARY, Parts, lightgbm

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


# ------------------------------------------------------------------ members of an average


@dataclass(frozen=True)
class Objective:
    """How members are fitted to a column of targets, and compared."""

    trees: Mapping[str, Any]  # parameters of LightGBM
    solve: Solve  # a linear model
    loss: Loss
    informative: Callable[[np.ndarray], int]  # of targets [n], how many of them tell members apart


def _squared_error(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    return ((outputs[..., 0] - target) ** 2).mean(axis=-1)


def _ridge(inputs: np.ndarray, target: np.ndarray, strengths: Sequence[float]) -> Iterator[tuple[Floats, Floats]]:
    from sklearn.linear_model import Ridge

    for strength in strengths:
        model = Ridge(alpha=1 / strength).fit(inputs, target)
        yield model.coef_[None], np.array([model.intercept_])


def _rarer(label: np.ndarray) -> int:
    """Number of stays that are not of the most frequent class."""
    return len(label) - int(np.bincount(label.astype(np.int64)).max())


LABELS = Objective(BINARY, logistic, log_loss, _rarer)
NUMBERS = Objective({"objective": "regression"}, _ridge, _squared_error, len)


def classes(number: int) -> Objective:
    """The objective of one of so many classes, a logit for each."""

    def multinomial(inputs: np.ndarray, place: np.ndarray, strengths: Sequence[float]) -> Iterator[Any]:
        present = np.unique(place).astype(np.int64)
        for weights, intercepts in logistic(inputs, np.searchsorted(present, place), strengths):
            if len(present) < 3:  # log-odds of the second, if there is one
                weights, intercepts = (np.stack([-each[0] / 2, each[0] / 2]) for each in (weights, intercepts))
                weights, intercepts = weights[-len(present) :], intercepts[-len(present) :]
            of_all = np.zeros((number, inputs.shape[1]))
            absent = np.full(number, intercepts.min() - math.log(1 + len(place)))  # as rare as can be told
            of_all[present], absent[present] = weights, intercepts
            yield of_all, absent

    def loss(outputs: np.ndarray, place: np.ndarray) -> np.ndarray:
        own = np.take_along_axis(
            outputs, np.broadcast_to(place.astype(np.int64)[:, None], (*outputs.shape[:-1], 1)), -1
        )
        return (np.logaddexp.reduce(outputs, axis=-1) - own[..., 0]).mean(axis=-1)

    return Objective({"objective": "multiclass", "num_class": number}, multinomial, loss, _rarer)


def fit_each_target(
    fit: Callable[[np.ndarray, np.ndarray, Parts], tuple[tuple[Any, ...], Floats]],
    table: np.ndarray,
    targets: np.ndarray,
    parts: Parts,
) -> tuple[list[Any], Floats]:
    """What `fit` makes of each column of targets [n, K] on the stays that have it, and outputs out of fold [n, O].

    `fit` gets the rows of a table, targets and parts, and returns the models and outputs [n, o] for held-out rows.
    """
    fitted: list[Any] = []
    outputs: list[Floats] = []
    for target in targets.T:
        known = ~np.isnan(target)
        place = np.cumsum(known) - 1
        inside = [tuple(place[side[known[side]]] for side in part) for part in parts]
        usable = [(grown_on, held_out) for grown_on, held_out in inside if len(grown_on) and len(held_out)]
        models, out_of_fold = fit(table if known.all() else table[known], target[known], usable)
        fitted += models
        outputs.append(np.full((len(target), out_of_fold.shape[1]), np.nan))
        outputs[-1][known] = out_of_fold
    return fitted, np.concatenate(outputs, axis=1)


def mean_loss(objective: Objective, targets: np.ndarray, outputs: Floats) -> Floats:
    """Over all labels that there are: targets [n, K] and outputs [M, n, O] → [M]."""
    of_column = np.split(outputs, targets.shape[1], axis=-1)
    known = ~np.isnan(targets)
    losses = [
        objective.loss(each[:, has], target[has])
        for each, target, has in zip(of_column, targets.T, known.T, strict=True)
    ]
    return np.average(losses, axis=0, weights=known.sum(axis=0))
