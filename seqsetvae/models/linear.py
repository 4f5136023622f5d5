"""Linear models on a table of summaries, with a penalty on the squares of their weights, one for each output.

They are logistic regression of one binary label (an output) or of classes (an output each), or ridge regression.

Each column is one number (0 where it is missing) and one flag for missing; numbers are cut off at CLIPPED standard
deviations, so that a typing error does not decide. Legend: n stays, c columns, o outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.system.errors import InputError

Floats = NDArray[np.float64]
Parts = Sequence[tuple[np.ndarray, np.ndarray]]  # rows of a table
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # C of scikit-learn, from the strongest penalty to the weakest
CLIPPED = 3.0
ITERATIONS = 300
NEWTON_STEPS, PRIOR = 8, 1e-2  # of `log_loss`; added to a curvature, which may be 0


Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]  # outputs [M, n, o] of M models and targets [n] → means [M]


def log_loss(log_odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean log loss of log-odds [M, n, 1] for labels [n], each with the intercept that makes it lowest: [M].

    Log-odds of boosted trees on a rare label are too low, by the penalty on leaves of few stays, however well they
    rank; the calibration of predictions moves them anyway.
    """
    from scipy.special import expit

    found = log_odds[..., 0]
    for _ in range(NEWTON_STEPS):
        risk = expit(found)
        error, curvature = (risk - label).sum(axis=1), (risk * (1 - risk)).sum(axis=1) + PRIOR
        found = found - (error / curvature).clip(-2, 2)[:, None]
    return np.logaddexp(0.0, np.where(label == 1, -found, found)).mean(axis=-1)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """The output is a sum over the columns: slope times the number between `low` and `high`, or `missing`."""

    intercept: Floats  # [1]
    slope: Floats  # [c]
    missing: Floats  # [c]
    low: Floats  # [c]
    high: Floats  # [c]
    mean: Floats  # [c] mean term of each column over the training stays

    def outputs(self, table: np.ndarray) -> Floats:
        """[n, c] → [n, 1]. Raises InputError if the model was fitted to a table of another width."""
        return (self.intercept[0] + self._terms(table).sum(axis=1))[:, None]

    def contributions(self, table: np.ndarray) -> tuple[Floats, float]:
        """(contribution of each column to the output [n, c], its mean over the training stays), as of trees."""
        return self._terms(table) - self.mean, float(self.intercept[0] + self.mean.sum())

    def _terms(self, table: np.ndarray) -> Floats:
        if table.shape[1] != len(self.slope):
            raise InputError(
                f"the linear model of the checkpoint is damaged (it reads {len(self.slope):,} columns, its table has "
                f"{table.shape[1]:,}). Use another copy."
            )
        return np.where(np.isnan(table), self.missing, self.slope * np.clip(table, self.low, self.high))

    def as_plain(self) -> dict[str, list[float]]:
        """A dictionary for a checkpoint."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_plain(cls, plain: Any) -> LinearModel:
        """Raises ValueError unless these are numbers as `as_plain` writes them."""
        names = [field.name for field in fields(cls)]
        if not isinstance(plain, Mapping) or plain.keys() != set(names):
            raise ValueError("the linear model is incomplete")
        arrays = {name: np.array(plain[name], dtype=np.float64) for name in names}
        widths = {values.shape for name, values in arrays.items() if name != "intercept"}
        if arrays["intercept"].shape != (1,) or len(widths) != 1 or len(*widths) != 1:
            raise ValueError("the linear model has lists of other lengths")
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise ValueError("the linear model has numbers that are not finite")
        return cls(**arrays)


Models = tuple[LinearModel, ...]  # one for each output
# Inputs [n, i], targets [n] and strengths → for each strength weights [o, i] and intercepts [o].
Solve = Callable[[np.ndarray, np.ndarray, Sequence[float]], Iterator[tuple[Floats, Floats]]]


def logistic(inputs: np.ndarray, label: np.ndarray, strengths: Sequence[float]) -> Iterator[tuple[Floats, Floats]]:
    """Logistic regression of labels or classes, a Solve; each strength begins with the weights of the one before."""
    from sklearn.linear_model import LogisticRegression

    if (label == label[0]).all():  # nothing can be told apart
        log_odds = math.log(1 + len(label)) * (1 if label[0] else -1)
        yield from ((np.zeros((1, inputs.shape[1])), np.array([log_odds])) for _ in strengths)
        return
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength).fit(inputs, label)
        yield model.coef_, model.intercept_


def fit(
    table: np.ndarray, target: np.ndarray, strengths: Sequence[float] = STRENGTHS, solve: Solve = logistic
) -> list[Models]:
    """Models of each strength, from the strongest penalty on: a table [n, c] with NaN for missing, targets [n]."""
    return _Inputs.of(table).models(table, target, strengths, solve)


def outputs_of(models: Sequence[Any], table: np.ndarray) -> Floats:
    """Outputs of models for some of them each, one after the other: [n, c] → [n, o]."""
    return np.concatenate([model.outputs(table) for model in models], axis=1)


def fit_best(
    table: np.ndarray, target: np.ndarray, parts: Parts, solve: Solve = logistic, loss: Loss = log_loss
) -> tuple[Models, Floats]:
    """The models of the strength with the lowest loss on held-out stays, and their outputs for these [n, o].

    Each of `parts` holds the rows that models are fitted to, and those that they predict.
    """
    of_parts = []
    for fitted_to, held_out in parts:
        models = fit(table[fitted_to], target[fitted_to], STRENGTHS, solve)
        of_parts.append(np.stack([outputs_of(each, table[held_out]) for each in models]))
    found = np.zeros((len(STRENGTHS), len(target), of_parts[0].shape[-1]))
    for (_, held_out), outputs in zip(parts, of_parts, strict=True):
        found[:, held_out] = outputs
    known = np.concatenate([held_out for _, held_out in parts])
    best = int(loss(found[:, known], target[known]).argmin())
    return fit(table, target, STRENGTHS[best : best + 1], solve)[0], found[best]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Mean and standard deviation of each column [c], and which columns are missing in some training stays [c]."""

    mean: Floats
    std: Floats
    lacks: NDArray[np.bool_]

    @classmethod
    def of(cls, table: np.ndarray) -> _Inputs:
        absent = np.isnan(table)
        n_present = np.maximum((~absent).sum(axis=0), 1)
        mean = np.where(absent, 0.0, table).sum(axis=0, dtype=np.float64) / n_present
        square = np.where(absent, 0.0, table - mean) ** 2
        std = np.sqrt(square.sum(axis=0) / n_present)
        return cls(mean, np.where(std > 0, std, 1.0), absent.any(axis=0))

    def models(self, table: np.ndarray, target: np.ndarray, strengths: Sequence[float], solve: Solve) -> list[Models]:
        """Models from the strongest penalty to the weakest, each started from the one before."""
        absent = np.isnan(table)
        number = np.clip(np.where(absent, 0.0, (table - self.mean) / self.std), -CLIPPED, CLIPPED)
        read = np.hstack([number, absent[:, self.lacks]])
        center, scale = read.mean(axis=0), read.std(axis=0)
        scale[scale == 0] = 1.0
        read = (read - center) / scale
        found = []
        for weights, intercepts in solve(read, target, strengths):
            weights = weights / scale
            each = zip(weights, intercepts - weights @ center, strict=True)
            found.append(tuple(self._model(weight, float(intercept), absent, number) for weight, intercept in each))
        return found

    def _model(self, weight: Floats, intercept: float, absent: np.ndarray, number: np.ndarray) -> LinearModel:
        """The model in the units of the table: a number is slope * value + offset; `offset` is in the intercept."""
        c = len(self.mean)
        slope = weight[:c] / self.std
        offset = -slope * self.mean
        of_flag = np.zeros(c)
        of_flag[self.lacks] = weight[c:]
        terms = np.where(absent, of_flag - offset, number * weight[:c] - offset)
        low, high = (self.mean + sign * CLIPPED * self.std for sign in (-1, 1))
        return LinearModel(np.array([intercept + offset.sum()]), slope, of_flag - offset, low, high, terms.mean(axis=0))
