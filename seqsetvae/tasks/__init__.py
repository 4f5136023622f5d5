"""What a fine-tuned model predicts, by name. Importing this imports no torch.

A task is a module here with the names below. Its head has as many outputs as the task needs; what the task learned of
the training labels (classes, mean and std) is its Spec, which is kept in the checkpoint. One binary label, the default,
has calibration, decision thresholds and more of its own (head.py, evaluation/), so its module names only what the
others have too.

Legend: n stays, K columns of labels, O outputs of the head, c columns of a table of summaries, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqsetvae.tasks import binary, multiclass, multilabel, regression
from seqsetvae.tasks.spec import Spec

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Table = tuple[np.ndarray, Floats]  # summaries [n, c] with NaN for missing, targets [n, K] in their own unit
Predict = Callable[[np.ndarray], Floats]  # summaries [n, c] → outputs [n, O]


class Task(Protocol):
    """What a task must offer. Targets are NaN where a stay has no label in a column."""

    HELP: str
    Settings: Any  # dataclass of settings of its own, each a config line and a flag
    RECIPE: dict[str, Any]  # values of other settings, where the user sets none
    METRICS: tuple[str, ...]  # of a validation, beside the losses
    WATCHED: str  # the one that chooses the checkpoint; higher is better

    def fit(self, names: tuple[str, ...], cells: NDArray[np.str_], file: str) -> Spec:
        """What the task is on the labelled training stays: cells [n, K] of the file of labels, as text.

        Raises:
            InputError: labels that the task cannot have, or too few different ones.
        """
        ...

    def parse(self, spec: Spec, cells: NDArray[np.str_], file: str) -> Floats:
        """The targets in their own unit: cells [n, K] → [n, K]. Raises InputError naming the first that is none."""
        ...

    def encode(self, spec: Spec, target: Floats) -> Floats:
        """The targets as the loss reads them: [n, K] → [n, K]."""
        ...

    def loss(self, spec: Spec, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of the loss over all labels, number of labels) of outputs [n, O] and encoded targets [n, K]."""
        ...

    def metrics(self, spec: Spec, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """METRICS over a split, from outputs [n, O] and encoded targets [n, K]."""
        ...

    def columns(self, spec: Spec, output: Floats) -> dict[str, np.ndarray]:
        """The columns of the table of predictions: outputs [n, O] → [n] each."""
        ...

    def primary(self, spec: Spec) -> tuple[str, ...]:
        """The figures whose difference to a baseline is shown."""
        ...

    def figures(self, spec: Spec, output: Floats, target: Floats) -> Callable[[Floats], dict[str, Floats]]:
        """What maps weights [R, n] to figures [R] by name, for outputs [n, O] and targets [n, K] in their own unit."""
        ...

    def curves(self, spec: Spec, output: Floats, target: Floats) -> list[dict[str, Any]]:
        """What a report draws (evaluation/curves.py) of outputs [n, O] and targets [n, K] in their own unit."""
        ...

    def constant(self, spec: Spec, train: Floats, n_stays: int) -> tuple[str, Floats]:
        """(name, outputs [n, O]) of the best prediction that looks at no stay, from training targets [n, K]."""
        ...

    def baselines(self, spec: Spec) -> Mapping[str, Callable[[Table, Table], Predict]]:
        """Other models by name, fitted on tables of the training and validation stays."""
        ...


TASKS: dict[str, Any] = {
    "binary": binary,
    "multilabel": multilabel,
    "multiclass": multiclass,
    "regression": regression,
}
