"""Logistic regression on a table of summaries, with a penalty on the squares of its weights.

Each column is one number (0 where it is missing) and one flag for missing; numbers are cut off at CLIPPED standard
deviations, so that a typing error does not decide. Legend: n stays, c columns, S strengths of the penalty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def log_loss(log_odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean log loss of log-odds [..., n] for labels [n]: [...]."""
    return np.logaddexp(0.0, np.where(label == 1, -log_odds, log_odds)).mean(axis=-1)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Log-odds are a sum over the columns: slope times the number between `low` and `high`, or `missing`."""

    intercept: Floats  # [1]
    slope: Floats  # [c]
    missing: Floats  # [c]
    low: Floats  # [c]
    high: Floats  # [c]
    mean: Floats  # [c] mean term of each column over the training stays

    @classmethod
    def fit(cls, table: np.ndarray, label: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> list[LinearModel]:
        """One for each strength, on a table [n, c] with NaN for missing, and labels [n]."""
        return _Inputs.of(table).models(table, label, strengths)

    @classmethod
    def of_best_strength(cls, table: np.ndarray, label: np.ndarray, parts: Parts) -> tuple[LinearModel, Floats]:
        """The model of the strength with the lowest log loss on held-out stays, and its log-odds for these [n].

        Each of `parts` holds the rows that models are fitted to, and those that they predict.
        """
        found = np.zeros((len(STRENGTHS), len(label)))
        for fitted_to, held_out in parts:
            models = cls.fit(table[fitted_to], label[fitted_to])
            found[:, held_out] = [model.log_odds(table[held_out]) for model in models]
        known = np.concatenate([held_out for _, held_out in parts])
        best = int(log_loss(found[:, known], label[known]).argmin())
        return cls.fit(table, label, STRENGTHS[best : best + 1])[0], found[best]

    def log_odds(self, table: np.ndarray) -> Floats:
        """[n, c] → [n]. Raises InputError if the model was fitted to a table of another width."""
        return self.intercept[0] + self._terms(table).sum(axis=1)

    def contributions(self, table: np.ndarray) -> tuple[Floats, float]:
        """(contribution of each column to the log-odds [n, c], their mean over the training stays), as of trees."""
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

    def models(self, table: np.ndarray, label: np.ndarray, strengths: Sequence[float]) -> list[LinearModel]:
        """Yield models from the strongest penalty to the weakest, each started from the one before."""
        from sklearn.linear_model import LogisticRegression

        absent = np.isnan(table)
        number = np.clip(np.where(absent, 0.0, (table - self.mean) / self.std), -CLIPPED, CLIPPED)
        read = np.hstack([number, absent[:, self.lacks]])
        center, scale = read.mean(axis=0), read.std(axis=0)
        scale[scale == 0] = 1.0
        read = (read - center) / scale
        model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
        found = []
        for strength in strengths:
            model.set_params(C=strength).fit(read, label)
            weight = model.coef_[0] / scale
            found.append(self._model(weight, float(model.intercept_[0] - weight @ center), absent, number))
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
