"""What a task is on the training stays of a run, which its checkpoint keeps, and what is fitted on validation stays.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

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
        """For JSON and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Spec:
        """The reverse. Raises TypeError for other content."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**plain)


def one_label(name: str = "label") -> Spec:
    """One binary label."""
    return Spec(BINARY, (name,))


def columns_of(label_name: str | None) -> tuple[str, ...]:
    """The columns that label_name lists, separated by commas."""
    return tuple(name.strip() for name in (label_name or "").split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a task has fitted to the validation outputs of one checkpoint; each task adds its own numbers."""

    ABOUT: ClassVar[dict[str, str]] = {}  # what the numbers mean, for the file
    MISSING: ClassVar[str] = ""  # cautions of an evaluation: there is none,
    SAME_STAYS: ClassVar[str] = ""  # or it was fitted on the evaluated stays

    checkpoint_sha256: str
    split: str  # on which it was fitted
    stays: int

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
