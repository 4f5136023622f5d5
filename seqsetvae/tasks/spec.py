"""What a task is on the training stays of a run, which its checkpoint keeps, and what is fitted on validation stays.

Also what tasks with labels of their own share: cells of their file as numbers, and what is said of them. No torch.

Legend: n stays, K columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.names import is_empty
from seqsetvae.cohort.profile import scrambled
from seqsetvae.system.errors import InputError, shown

if TYPE_CHECKING:
    import torch

BINARY = "binary"


@dataclass(frozen=True)
class Spec:
    """A task and what it learned of the training labels."""

    task: str  # a name in TASKS
    names: tuple[str, ...]  # columns of the file of labels
    outputs: int | None = None  # of the head; None: the two logits of one binary label
    classes: tuple[str, ...] = ()  # multiclass
    mean: tuple[float, ...] = ()  # regression: of the training stays, one for each column
    std: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The columns as one text, which takes the place of the name of a single label."""
        return ",".join(self.names)

    @property
    def width(self) -> int:
        """Number of outputs of a prediction: log-odds for one binary label, else those of the head."""
        return self.outputs or 1

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for JSON and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Spec:
        """Inverse of `as_plain`. Raises TypeError for other content."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**plain)


def one_label(name: str = "label") -> Spec:
    """One binary label."""
    return Spec(BINARY, (name,))


def columns_of(label_name: str | None) -> tuple[str, ...]:
    """The columns that label_name lists, separated by commas."""
    return tuple(name.strip() for name in (label_name or "").split(",") if name.strip())


@dataclass(frozen=True)
class Recalibrated:
    """Where a refitted calibration is from: its name, and on which subjects of another cohort it was fitted.

    Whether a subject is among them follows from its number alone, so that they can be left out wherever it is used.
    """

    name: str
    kind: str  # what was fitted: "intercept", or "intercept and slope"
    data: str  # the hash of the cohort
    fraction: float  # of its subjects
    seed: int

    def fitted_on(self, subject: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these subjects [n] of the cohort it was fitted on."""
        drawn = scrambled(subject.astype(np.int64).view(np.uint64) ^ scrambled(np.array([self.seed], np.uint64)))
        return drawn < np.float64(self.fraction) * 2.0**64


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a task has fitted to the validation outputs of one checkpoint; each task adds its own numbers."""

    ABOUT: ClassVar[dict[str, str]] = {}
    MISSING: ClassVar[str] = ""  # cautions of an evaluation: there is none,
    SAME_STAYS: ClassVar[str] = ""  # or it was fitted on the evaluated stays

    checkpoint_sha256: str
    split: str  # on which it was fitted; of a recalibration in words
    stays: int
    recalibrated: Recalibrated | None = None  # None: it is that of the training data

    def about(self) -> dict[str, str]:
        """What the numbers mean, for the file."""
        return self.ABOUT

    @property
    def threshold(self) -> float | None:
        """The decision threshold as a probability, if the task has one."""
        return None

    def calibrated(self, output: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Calibrated outputs: [n, O] → [n, O]; None where nothing could be fitted."""
        raise NotImplementedError

    def is_of(self, split: str, target: NDArray[np.float64]) -> bool:
        """Whether it was fitted on these stays: targets [n, K]."""
        return (self.split, self.stays) == (split, len(target))

    def cautions(self, split: str, target: NDArray[np.float64]) -> list[str]:
        """What a reader of an evaluation of these stays must know."""
        return [self.SAME_STAYS] * self.is_of(split, target)

    def require_agreement(self, threshold: Any) -> None:
        """Raises ValueError unless the numbers of a file, whose threshold this is, agree with each other."""


# ------------------------------------------------------------------ what tasks with labels of their own share


def numbers(
    names: tuple[str, ...],
    cells: NDArray[np.str_],
    file: str,
    is_allowed: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    allowed: str,
) -> NDArray[np.float64]:
    """Text [n, K] → numbers [n, K], NaN for empty cells. Raises InputError naming the first that is not allowed."""
    target = np.full(cells.shape, np.nan)
    for k, name in enumerate(names):
        filled = np.flatnonzero([not is_empty(cell) for cell in cells[:, k].tolist()])
        values = np.array([_number(cell) for cell in cells[filled, k].tolist()], dtype=np.float64)
        wrong = np.flatnonzero(~is_allowed(values))
        if len(wrong):
            cell = cells[filled[wrong[0]], k]
            raise InputError(f"{file}: the column {name!r} has the value {shown(cell)}; allowed: {allowed}")
        target[filled, k] = values
    return target


def _number(cell: str) -> float:
    """NaN where the text is no number."""
    try:
        return float(cell)
    except ValueError:
        return np.nan


def labels(spec: Spec, target: NDArray[np.float64]) -> dict[str, np.ndarray]:
    """The columns of targets [n, K] for a table, as the file of labels has them; where there is none, anything."""
    known = np.nan_to_num(target)
    columns = np.array(spec.classes)[known.astype(np.int64)] if spec.classes else known
    return dict(zip(spec.names, columns.T, strict=True))


def counts(target: NDArray[np.float64]) -> dict[str, Any]:
    """Counts of the labels of a group of stays, for evaluation.json; none besides their number."""
    return {}


def strata(target: NDArray[np.float64]) -> NDArray[np.int64]:
    """Every resample draws from all stays alike."""
    return np.zeros(len(target), dtype=np.int64)


def encode(spec: Spec, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Targets unchanged."""
    return target


def predicted(output: torch.Tensor) -> torch.Tensor:
    """Outputs of the head, unchanged."""
    return output.detach().double()


def weight(target: torch.Tensor, class_weight: Any = None) -> torch.Tensor:
    """The number of labels in targets [N, K]."""
    return (~target.isnan()).sum()
