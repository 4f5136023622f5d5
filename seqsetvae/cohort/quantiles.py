"""The value transform "quantiles": where a value lies among the training values of its variable.

Measurements have long tails and typing errors (a pH of 735), which mean and standard deviation follow: the z-scores of
all other values are then nearly 0. Quantiles follow neither. Legend: E events, V variables, K = 33 quantiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.statistics import Floats
from seqsetvae.cohort.variables import z_scores

if TYPE_CHECKING:
    from seqsetvae.cohort.transform import ValueChange

QUANTILES = "quantiles"
N_QUANTILES = 33
MOST_EVENTS = 20_000_000  # training events that quantiles are computed from, evenly spaced, which bounds memory
SCALE = 3**0.5  # half the range of a value of variance 1 that is uniformly distributed
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # ascending values, and the position of each
ALWAYS_EQUAL = 1.0  # the value of a variable that does not vary, or is rare: that it occurred


@dataclass(frozen=True)
class Quantiles:
    """Values as positions among the training values of their variable, from -√3 to √3: uniform, with variance 1."""

    quantiles: dict[str, tuple[float, ...]]  # K ascending z-scores of each variable that is not rare
    min_count: int = 0  # variables with fewer values in the training split are rare; 0 = none are

    @classmethod
    def fit(cls, cohort: Cohort, *, value_clip: float | None, min_count: int) -> Quantiles:
        """Quantiles of the training split. `value_clip` is not needed: positions have limits."""
        split = cohort.split("train")
        count = np.bincount(split.variable, minlength=len(cohort.vocabulary))
        step = max(1, len(split.value) // MOST_EVENTS)
        variable = np.asarray(split.variable[::step])
        value = cohort.variables.z_scores(variable, split.value[::step])
        order = np.argsort(variable, kind="stable")
        parts = np.split(value[order], np.cumsum(np.bincount(variable, minlength=len(count)))[:-1])
        probabilities = np.linspace(0, 1, N_QUANTILES)
        return cls(
            {
                name: tuple(np.quantile(part, probabilities, method="inverted_cdf").tolist())
                for name, part, n in zip(cohort.vocabulary, parts, count, strict=True)
                if len(part) and n >= min_count
            },
            min_count,
        )

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Quantiles:
        found = {name: tuple(map(float, values)) for name, values in content["quantiles"].items()}
        if any(len(values) != N_QUANTILES or list(values) != sorted(values) for values in found.values()):
            raise ValueError
        return cls(found, int(content["min_count"]))

    def as_plain(self) -> dict[str, Any]:
        quantiles = {name: list(values) for name, values in self.quantiles.items()}
        return {"name": QUANTILES, "quantiles": quantiles, "min_count": self.min_count}

    def options(self) -> dict[str, Any]:
        return {"value_transform": QUANTILES, "min_count": self.min_count}

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> Quantiles:
        """Unchanged: a variable without quantiles is rare."""
        return replace(self)

    def values_read(self, name: str) -> bool:
        """Those of rare variables, which have no quantiles, are not."""
        return name in self.quantiles

    def change(self, cohort: Cohort) -> ValueChange:
        """Values → positions; quantiles are of z-scores, or of the values of variables without statistics."""
        curves = [_curve(self.quantiles.get(name, ())) for name in cohort.vocabulary]
        return partial(_changed, cohort.variables.shift, cohort.variables.scale, curves)

    def __str__(self) -> str:
        return f"quantiles of the training values (value_transform), {len(self.quantiles):,} variables"


def _curve(quantiles: tuple[float, ...]) -> Curve | None:
    """Values and their positions, from the quantiles of a variable; None if they are all equal, or none.

    A value that several quantiles share, such as the best score, has the position in their middle.
    """
    values, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    if len(values) < 2:
        return None
    return values, SCALE * (2 * (first + (count - 1) / 2) / (len(quantiles) - 1) - 1)


def _changed(
    shift: Floats, scale: Floats, curves: Sequence[Curve | None], variable: NDArray[np.int32], value: Floats
) -> Floats:
    return positions(curves, variable, z_scores(shift, scale, variable, value))


def positions(
    curves: Sequence[Curve | None], variable: NDArray[np.int32], value: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The position of each value [E] of a variable [E] on the curve of the variable, linear between its points: [E]."""
    found = np.full(len(value), ALWAYS_EQUAL)
    order = np.argsort(variable, kind="stable")
    present, start = np.unique(variable[order], return_index=True)
    for row, events in zip(present.tolist(), np.split(order, start[1:]), strict=True):
        curve = curves[row]
        if curve is not None:
            found[events] = np.interp(value[events], *curve)
    return found
