"""How an architecture reads the values of a cohort: a value transform, by name, fitted on training stays.

A transform belongs to a model, not to the data: a checkpoint records its name and content, and everything that runs the
model applies it whenever a batch is made. An architecture names the one that its new models get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort
from seqsetvae.cohort.quantiles import QUANTILES, Quantiles
from seqsetvae.cohort.statistics import Floats
from seqsetvae.cohort.variables import z_scores
from seqsetvae.errors import InputError

Z_SCORE = "z_score"
VALUE_TRANSFORM = "value_transform"  # the key in checkpoints that we write
PRESENT = 1.0  # the value of an event of a rare variable: that it occurred
NAMED = 8  # variables that one line names
# (variable [E], value in its unit [E]) -> the value that the model reads [E]
ValueChange = Callable[[NDArray[np.int32], NDArray[np.float64]], NDArray[np.float64]]


class ValueTransform(Protocol):
    """What a transform must offer; str() describes it in the log."""

    @classmethod
    def fit(cls, cohort: Cohort, *, value_clip: float | None, min_count: int) -> ValueTransform:
        """The transform of a new model, fitted on the training split."""
        ...

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> ValueTransform:
        """The transform that as_plain() wrote. Raises TypeError, KeyError or ValueError for other content."""
        ...

    def as_plain(self) -> dict[str, Any]:
        """For JSON and checkpoints, with its "name" in VALUE_TRANSFORMS."""
        ...

    def options(self) -> dict[str, Any]:
        """The settings that it was fitted with, which a flag must not contradict."""
        ...

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> ValueTransform:
        """The same for a vocabulary with variables that the training data did not have."""
        ...

    def values_read(self, name: str) -> bool:
        """Whether a model reads the values of a variable, and not only that it occurred."""
        ...

    def change(self, cohort: Cohort) -> ValueChange:
        """What turns values into those of a batch.

        It is pickled for the worker processes of a loader.
        """
        ...


@dataclass(frozen=True)
class ZScore:
    """Z-scores, perhaps clipped, with one value for all events of a rare variable.

    A variable without statistics keeps its values. The default clips nothing and has no rare variables; models were
    trained so before there were transforms.
    """

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
        """Those of rare variables are not."""
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
        more = f" and {len(self.rare) - NAMED:,} more" if len(self.rare) > NAMED else ""
        named = f"{', '.join(map(repr, self.rare[:NAMED]))}{more}"
        return f"variables with fewer than {self.min_count:,} training values get the value {PRESENT:g}: {named}"


def _clipped(
    shift: Floats, scale: Floats, bounds: Floats, variable: NDArray[np.int32], value: Floats
) -> NDArray[np.float64]:
    return np.clip(z_scores(shift, scale, variable, value), *bounds[:, variable])


VALUE_TRANSFORMS: dict[str, type[ValueTransform]] = {Z_SCORE: ZScore, QUANTILES: Quantiles}
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
