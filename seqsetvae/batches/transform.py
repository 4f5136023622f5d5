"""How an architecture reads the values of a cohort: a value transform, by name, fitted on training stays.

A transform belongs to a model, not to the data: a checkpoint records its name and content, and everything that runs the
model applies it whenever a batch is made. An architecture names the one that its new models get. Legend: E events, V
variables, K = 33 quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.variables import Floats, z_scores
from seqsetvae.system.errors import InputError, named

Z_SCORE = "z_score"
QUANTILES = "quantiles"
NORMAL_SCORES = "normal_scores"
VALUE_TRANSFORM = "value_transform"  # the key in checkpoints that we write
PRESENT = 1.0  # the value of an event of a rare variable, or of one that does not vary: that it occurred
N_QUANTILES = 33
MOST_EVENTS = 20_000_000  # training events that quantiles are computed from, evenly spaced, which bounds memory
SCALE = 3**0.5  # half the range of a value of variance 1 that is uniformly distributed
OUTERMOST = 1 / 64  # shares end here and at 1 - 1/64, half a step between two quantiles: normal scores within ±2.15
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # ascending values, and what is read of each
# (variable [E], value in its unit [E]) -> the value that the model reads [E]
ValueChange = Callable[[NDArray[np.int32], NDArray[np.float64]], NDArray[np.float64]]


class ValueTransform(Protocol):
    """Interface of a value transform; str() describes it in the log."""

    @classmethod
    def fit(cls, cohort: Cohort, *, value_clip: float | None, min_count: int) -> ValueTransform:
        """The transform of a new model, fitted on the training split."""

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> ValueTransform:
        """The transform that as_plain() wrote. Raises TypeError, KeyError or ValueError for other content."""

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for JSON and checkpoints, with its "name" in VALUE_TRANSFORMS."""

    def options(self) -> dict[str, Any]:
        """The settings that it was fitted with, which a flag must not contradict."""

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> ValueTransform:
        """A copy for a vocabulary with variables that the training data did not have."""

    def values_read(self, name: str) -> bool:
        """Whether a model reads the values of a variable, and not only that it occurred."""

    def change(self, cohort: Cohort) -> ValueChange:
        """The function that turns raw values into those of a batch.

        It is pickled for the worker processes of a loader.
        """


@dataclass(frozen=True)
class ZScore:
    """Z-scores, perhaps clipped, with one value for all events of a rare variable.

    A variable without statistics keeps its values. The default clips nothing and has no rare variables; models were
    trained so before there were transforms.
    """

    NAME: ClassVar[str] = Z_SCORE
    clip: float | None = None  # standard deviations: z-scores beyond are set to this; None = no limit
    min_count: int = 0  # variables with fewer values in the training split are rare; 0 = none are
    rare: tuple[str, ...] = ()  # variables whose events have the value PRESENT

    @classmethod
    def fit(cls, cohort: Cohort, *, value_clip: float | None, min_count: int) -> ZScore:
        """Count the variables of the training split."""
        if not min_count:
            return cls(value_clip)
        count = cohort.sums("train").count
        return cls(value_clip, min_count, tuple(cohort.vocabulary[v] for v in np.flatnonzero(count < min_count)))

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> ZScore:
        transform = cls(content["clip"], content["min_count"], tuple(content["rare"]))
        good_clip = transform.clip is None or (isinstance(transform.clip, float) and 0 < transform.clip < math.inf)
        good_count = type(transform.min_count) is int and transform.min_count >= 0
        if not good_clip or not good_count or not all(isinstance(name, str) for name in transform.rare):
            raise ValueError
        return transform

    def as_plain(self) -> dict[str, Any]:
        return {"name": Z_SCORE, **asdict(self), "rare": list(self.rare)}

    def options(self) -> dict[str, Any]:
        return {"value_transform": Z_SCORE, "value_clip": self.clip, "min_count": self.min_count}

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> ZScore:
        """New variables count as rare."""
        if not self.min_count:
            return self
        return replace(self, rare=tuple(sorted({*self.rare, *(name for name in vocabulary if name not in known)})))

    def values_read(self, name: str) -> bool:
        """Whether it is not rare."""
        return name not in self.rare

    def change(self, cohort: Cohort) -> ValueChange:
        """Z-scores, clipped to a smallest and a largest value of each variable.

        Variables without statistics keep raw values, which standard deviations cannot limit.
        """
        rare = np.isin(cohort.vocabulary, self.rare)
        if self.clip is None and not rare.any():
            return partial(z_scores, cohort.variables.shift, cohort.variables.scale)
        limit = np.where(np.isfinite(cohort.std), math.inf if self.clip is None else self.clip, math.inf)
        bounds = np.stack([-limit, limit])  # [2, V]
        bounds[:, rare] = PRESENT
        return partial(_clipped, cohort.variables.shift, cohort.variables.scale, bounds)

    def __str__(self) -> str:
        if self == PLAIN:
            return "plain z-scores (no value_clip, no min_count)"
        clipped = "z-scores not clipped" if self.clip is None else f"z-scores clipped at ±{self.clip:g}"
        return f"{clipped} (value_clip); {self._rare_in_words()} (min_count)"

    def _rare_in_words(self) -> str:
        if not self.min_count:
            return "rare variables keep their values"
        if not self.rare:
            return f"no variable has fewer than {self.min_count:,} training values"
        rare = named(list(map(repr, self.rare)))
        return f"variables with fewer than {self.min_count:,} training values get the value {PRESENT:g}: {rare}"


def _clipped(
    shift: Floats, scale: Floats, bounds: Floats, variable: NDArray[np.int32], value: Floats
) -> NDArray[np.float64]:
    return np.clip(z_scores(shift, scale, variable, value), *bounds[:, variable])


@dataclass(frozen=True)
class Quantiles:
    """Values as positions among the training values of their variable, from -√3 to √3: uniform, with variance 1."""

    NAME: ClassVar[str] = QUANTILES
    quantiles: dict[str, tuple[float, ...]]  # K ascending z-scores of each variable that is not rare
    min_count: int = 0  # variables with fewer values in the training split are rare; 0 = none are

    @staticmethod
    def read(share: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is read of a value, from the share of training values below it."""
        return SCALE * (2 * share - 1)

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
        quantiles = {name: tuple(map(float, values)) for name, values in content["quantiles"].items()}
        if any(len(values) != N_QUANTILES or list(values) != sorted(values) for values in quantiles.values()):
            raise ValueError
        return cls(quantiles, int(content["min_count"]))

    def as_plain(self) -> dict[str, Any]:
        quantiles = {name: list(values) for name, values in self.quantiles.items()}
        return {"name": self.NAME, "quantiles": quantiles, "min_count": self.min_count}

    def options(self) -> dict[str, Any]:
        return {"value_transform": self.NAME, "min_count": self.min_count}

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> Quantiles:
        """Unchanged: a variable without quantiles is rare."""
        return self

    def values_read(self, name: str) -> bool:
        """Whether it has quantiles, which rare variables have not."""
        return name in self.quantiles

    def change(self, cohort: Cohort) -> ValueChange:
        """Values → positions; quantiles are of z-scores, or of the values of variables without statistics."""
        curves = [_curve(self.quantiles.get(name, ()), self.read) for name in cohort.vocabulary]
        return partial(_positions, cohort.variables.shift, cohort.variables.scale, curves)

    def __str__(self) -> str:
        words = self.NAME.replace("_", " ")
        return f"{words} of the training values (value_transform), {len(self.quantiles):,} variables"


@dataclass(frozen=True)
class NormalScores(Quantiles):
    """Values as scores of a normal distribution of variance 1 at the share of training values below them."""

    NAME: ClassVar[str] = NORMAL_SCORES

    @staticmethod
    def read(share: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([NormalDist().inv_cdf(each) for each in share.clip(OUTERMOST, 1 - OUTERMOST).tolist()])


def _curve(quantiles: tuple[float, ...], read: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Curve | None:
    """Values and what is read of them, from the quantiles of a variable; None if they are all equal, or none.

    A value that several quantiles share, such as the best score, has the share in their middle.
    """
    values, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    if len(values) < 2:
        return None
    return values, read((first + (count - 1) / 2) / (len(quantiles) - 1))


def _positions(
    shift: Floats, scale: Floats, curves: Sequence[Curve | None], variable: NDArray[np.int32], value: Floats
) -> Floats:
    """The position of each value [E] on the curve of its variable, linear between its points: [E]."""
    z = z_scores(shift, scale, variable, value)
    positions = np.full(len(z), PRESENT)
    order = np.argsort(variable, kind="stable")
    present, start = np.unique(variable[order], return_index=True)
    for row, events in zip(present.tolist(), np.split(order, start[1:]), strict=True):
        curve = curves[row]
        if curve is not None:
            positions[events] = np.interp(z[events], *curve)
    return positions


VALUE_TRANSFORMS: dict[str, type[ValueTransform]] = {each.NAME: each for each in (ZScore, Quantiles, NormalScores)}
PLAIN = ZScore()


def read_transform(content: Any, path: Path) -> ValueTransform:
    """The transform that a checkpoint records; one that records none was trained on plain z-scores.

    Raises:
        InputError: it is not as a training run writes it, or has a name that is not among VALUE_TRANSFORMS.
    """
    if content is None:
        return PLAIN
    name = content.get("name", Z_SCORE) if isinstance(content, dict) else Z_SCORE  # z_score had no name at first
    if name not in list(VALUE_TRANSFORMS):  # a damaged name may not be hashable
        raise InputError(
            f"{path}: has the value transform {name!r}, which this version does not know; it knows "
            f"{', '.join(VALUE_TRANSFORMS)}. Use the version that it was trained with."
        )
    try:
        return VALUE_TRANSFORMS[name].from_plain(content)
    except (TypeError, KeyError, ValueError):
        raise InputError(
            f"{path}: its {VALUE_TRANSFORM} {str(content)[:200]!r} is damaged. Use another copy of the file."
        ) from None
