"""Linear models on a table of summaries, with a penalty on the squares of their weights, one for each output.

They are logistic regression of one binary label (an output) or of classes (an output each), or ridge regression.

Each column is one number (0 where it is missing) and one flag for missing; numbers are cut off at CLIPPED standard
deviations, so that a typing error does not decide. A fact has one column that is constant where it is there, while a
variable with values has dozens, each with a flag: the penalty on a fact is therefore divided by a weight.
Legend: n stays, c columns, o outputs.
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
FACT_WEIGHTS = (1.0, 4.0)  # a fact then counts as four of its columns would; docs/quality-experiments.md, 9
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

    shifted = log_odds[..., 0]
    for _ in range(NEWTON_STEPS):
        risk = expit(shifted)
        error, curvature = (risk - label).sum(axis=1), (risk * (1 - risk)).sum(axis=1) + PRIOR
        shifted = shifted - (error / curvature).clip(-2, 2)[:, None]
    return np.logaddexp(0.0, np.where(label == 1, -shifted, shifted)).mean(axis=-1)


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
    table: np.ndarray,
    target: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
    solve: Solve = logistic,
    fact_weight: float = 1.0,
) -> list[Models]:
    """Models of each strength, from the strongest penalty on: a table [n, c] with NaN for missing, targets [n]."""
    return _Inputs.of(table).models(table, target, strengths, solve, fact_weight)


def outputs_of(models: Sequence[Any], table: np.ndarray) -> Floats:
    """Outputs of models for some of them each, one after the other: [n, c] → [n, o]."""
    return np.concatenate([model.outputs(table) for model in models], axis=1)


def fit_best(
    table: np.ndarray, target: np.ndarray, parts: Parts, solve: Solve = logistic, loss: Loss = log_loss
) -> tuple[Models, Floats]:
    """The models of the penalty with the lowest loss on held-out stays, and their outputs for these [n, o].

    Each of `parts` holds the rows that models are fitted to, and those that they predict. Penalties are the strengths
    with each weight of facts.
    """
    fact_weights = FACT_WEIGHTS if _Inputs.of(table).is_fact.any() else FACT_WEIGHTS[:1]
    penalties = [(fact_weight, strength) for fact_weight in fact_weights for strength in STRENGTHS]
    outputs_of_parts = []
    for fitted_to, held_out in parts:
        rows, labels = table[fitted_to], target[fitted_to]
        models = [model for weight in fact_weights for model in fit(rows, labels, STRENGTHS, solve, weight)]
        outputs_of_parts.append(np.stack([outputs_of(model, table[held_out]) for model in models]))
    outputs = np.zeros((len(penalties), len(target), outputs_of_parts[0].shape[-1]))
    for (_, held_out), of_part in zip(parts, outputs_of_parts, strict=True):
        outputs[:, held_out] = of_part
    known = np.concatenate([held_out for _, held_out in parts])
    best = int(loss(outputs[:, known], target[known]).argmin())
    fact_weight, strength = penalties[best]
    return fit(table, target, [strength], solve, fact_weight)[0], outputs[best]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the training stays have of each column [c]: mean and standard deviation, and whether some lack it.

    A fact is missing in some stays and the same number in all others.
    """

    mean: Floats
    std: Floats
    lacks: NDArray[np.bool_]
    is_fact: NDArray[np.bool_]

    @classmethod
    def of(cls, table: np.ndarray) -> _Inputs:
        absent = np.isnan(table)
        n_present = np.maximum((~absent).sum(axis=0), 1)
        mean = np.where(absent, 0.0, table).sum(axis=0, dtype=np.float64) / n_present
        square = np.where(absent, 0.0, table - mean) ** 2
        std = np.sqrt(square.sum(axis=0) / n_present)
        varies = np.fmax.reduce(table) > np.fmin.reduce(table)  # std of equal numbers may not be 0
        lacks = absent.any(axis=0)
        return cls(mean, np.where(varies, std, 1.0), lacks, lacks & ~varies)

    def models(
        self, table: np.ndarray, target: np.ndarray, strengths: Sequence[float], solve: Solve, fact_weight: float
    ) -> list[Models]:
        """Models from the strongest penalty to the weakest, each started from the one before."""
        absent = np.isnan(table)
        number = np.clip(np.where(absent, 0.0, (table - self.mean) / self.std), -CLIPPED, CLIPPED)
        read = np.hstack([number, absent[:, self.lacks]])
        center, scale = read.mean(axis=0), read.std(axis=0)
        scale[scale == 0] = 1.0
        scale[len(self.mean) :][self.is_fact[self.lacks]] /= math.sqrt(fact_weight)
        read = (read - center) / scale
        by_strength = []
        for weights, intercepts in solve(read, target, strengths):
            weights = weights / scale
            each = zip(weights, intercepts - weights @ center, strict=True)
            by_strength.append(
                tuple(self._model(weight, float(intercept), absent, number) for weight, intercept in each)
            )
        return by_strength

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
