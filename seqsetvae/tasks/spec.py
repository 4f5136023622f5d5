"""What a task is on the training stays of a run; a checkpoint keeps it. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

BINARY = "binary"


@dataclass(frozen=True)
class Spec:
    """A task and what it learned of the training labels."""

    task: str  # a name in TASKS
    names: tuple[str, ...]  # columns of the file of labels
    outputs: int  # of the head
    classes: tuple[str, ...] = ()  # multiclass
    mean: tuple[float, ...] = ()  # regression: of the training stays, one for each column
    std: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The columns as one text, which takes the place of the name of a single label."""
        return ",".join(self.names)

    def as_plain(self) -> dict[str, Any]:
        """For JSON and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> Spec:
        """The reverse. Raises TypeError for other content."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**plain)


def columns_of(label_name: str | None) -> tuple[str, ...]:
    """The columns that label_name lists, separated by commas."""
    return tuple(name.strip() for name in (label_name or "").split(",") if name.strip())
