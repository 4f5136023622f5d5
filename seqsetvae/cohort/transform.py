"""How stored values are changed when a batch is made: extreme z-scores are clipped, rare variables get one value.

The change belongs to a model, not to the data: a checkpoint records it, and everything that runs the model repeats it.
"""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, event_blocks
from seqsetvae.errors import InputError

VALUE_TRANSFORM = "value_transform"  # the key in checkpoints that we write
PRESENT = 1.0  # the value of an event of a rare variable: that it occurred
NAMED = 8  # variables that one line names


@dataclass(frozen=True)
class ValueTransform:
    """Changes to the values of a cohort. The default changes nothing: models were trained so before it existed."""

    clip: float | None = None  # standard deviations: z-scores beyond are set to this; None = no limit
    min_count: int = 0  # variables with fewer values in the training split are rare; 0 = none are
    rare: tuple[str, ...] = ()  # variables whose events have the value PRESENT

    def bounds(self, cohort: Cohort) -> NDArray[np.float64] | None:
        """[2, V] Smallest and largest value of each variable in a batch; None if no value is changed.

        Variables without statistics keep raw values, which standard deviations cannot limit.
        """
        rare = np.isin(cohort.vocabulary, self.rare)
        if self.clip is None and not rare.any():
            return None
        limit = np.where(np.isfinite(cohort.std), math.inf if self.clip is None else self.clip, math.inf)
        bounds = np.stack([-limit, limit])
        bounds[:, rare] = PRESENT
        return bounds

    def with_unknown(self, vocabulary: Collection[str], known: Collection[str]) -> "ValueTransform":
        """The same for data with variables that the training data did not have: they count as rare."""
        if not self.min_count:
            return self
        return replace(self, rare=tuple(sorted({*self.rare, *(name for name in vocabulary if name not in known)})))

    def as_plain(self) -> dict[str, Any]:
        """For JSON and checkpoints."""
        return {**asdict(self), "rare": list(self.rare)}

    def __str__(self) -> str:
        if self == AS_STORED:
            return "as stored (no value_clip, no min_count)"
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


AS_STORED = ValueTransform()


def choose_transform(cohort: Cohort, clip: float | None, min_count: int) -> ValueTransform:
    """The transform for a new model: variables are counted in the training split."""
    if not min_count:
        return ValueTransform(clip)
    split = cohort.split("train")
    count = np.zeros(len(cohort.vocabulary), dtype=np.int64)
    for variable, _ in event_blocks(split.variable, split.value):
        count += np.bincount(variable, minlength=len(count))
    return ValueTransform(clip, min_count, tuple(cohort.vocabulary[v] for v in np.flatnonzero(count < min_count)))


def read_transform(content: Any, path: Path) -> ValueTransform:
    """The transform that a checkpoint records; a checkpoint that records none was trained on values as stored.

    Raises:
        InputError: it is not as a training run writes it.
    """
    if content is None:
        return AS_STORED
    try:
        transform = ValueTransform(content["clip"], content["min_count"], tuple(content["rare"]))
        good_clip = transform.clip is None or (isinstance(transform.clip, float) and 0 < transform.clip < math.inf)
        good_count = type(transform.min_count) is int and transform.min_count >= 0
        if good_clip and good_count and all(isinstance(name, str) for name in transform.rare):
            return transform
    except (TypeError, KeyError):
        pass
    raise InputError(f"{path}: its {VALUE_TRANSFORM} {str(content)[:200]!r} is damaged. Use another copy of the file.")
