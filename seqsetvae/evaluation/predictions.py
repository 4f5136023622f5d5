"""Predictions for the stays of a split as one table: calibration, evaluation and files all read this.

Legend: N stays of a batch, n stays of the table, O outputs, K columns of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.batches.batch import Batch, PooledBatch
from seqsetvae.cohort import Cohort
from seqsetvae.system.processes import columns_of_all
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Calibration, Spec
from seqsetvae.tasks.targets import truth
from seqsetvae.training.metrics import require_finite

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """One row for each stay."""

    spec: Spec
    split: str
    stay_id: Ints  # [n]
    output: Floats  # [n, O] as `predicted` of the task, such as log-odds
    target: Floats  # [n, K] in the unit of each column, NaN = no label
    subject: Ints | None = None  # [n] the patient of each stay; None: each stay is of another
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.stay_id)

    def rows(self, chosen: Any) -> Predictions:
        """These rows: a mask [n] or positions."""
        subject = None if self.subject is None else self.subject[chosen]
        stay_id, output, target = self.stay_id[chosen], self.output[chosen], self.target[chosen]
        return replace(self, stay_id=stay_id, output=output, target=target, subject=subject)

    def labelled(self) -> Predictions:
        """The rows of stays with a label in any column."""
        return self.rows(~np.isnan(self.target).all(axis=1))

    def other(self, output: Floats) -> Predictions:
        """Those of another model, without a calibration, for the same stays."""
        return replace(self, output=output, calibration=None)


def predictions_of(spec: Spec, cohort: Cohort, split: str, stay_id: Ints, output: Floats) -> Predictions:
    """Outputs [n, O] for stays of a split with what the cohort knows of these stays; a stay may occur twice."""
    target, subject = truth(cohort, split, spec, stay_id), cohort.split(split).subjects_of(stay_id)
    return Predictions(spec=spec, split=split, stay_id=stay_id, output=output, target=target, subject=subject)


@torch.inference_mode()
def predict(
    spec: Spec,
    model: Callable[[Any, torch.Tensor], torch.Tensor],
    embeddings: torch.Tensor,
    batches: Iterable[Batch | PooledBatch],
    split: str,
    precision: AbstractContextManager[Any],
) -> tuple[Ints, Floats]:
    """(ids [n], outputs [n, O]) of every stay of these batches, with or without a label.

    `model` maps a batch and the embeddings [V, I] to outputs of a head. They are computed on the device of
    `embeddings`. Of several processes each has its `own_share` of the batches, and all return all predictions.

    Raises:
        FloatingPointError: an output is not finite; it would be ranked above all others.
    """
    parts = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            output = model(batch, embeddings)
        require_finite(output, cpu_batch.stay_id, split)
        parts.append((batch.stay_id, TASKS[spec.task].predicted(output)))
    stay_id, outputs = columns_of_all(parts)
    return stay_id.cpu().numpy(), outputs.cpu().numpy()
