"""What is measured in validation: ranking quality, health of the posterior, and whether the numbers are numbers.

Legend: N stays, S sets, D latent width.
"""

from __future__ import annotations

import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision


def ranking_metrics(prefix: str = "") -> MetricCollection:
    """AUROC ("auc") and average precision ("auprc"), exact over everything they are updated with.

    Without validate_args: it would read every batch back to the host, and labels were checked when data were compiled.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "auc": BinaryAUROC(validate_args=False),
        "auprc": BinaryAveragePrecision(validate_args=False),
    }
    return MetricCollection(metrics, prefix=prefix)


def ranking_score(logits: torch.Tensor) -> torch.Tensor:
    """Scores in (0, 1) that rank stays exactly as their logits do: logits [N, 2] → [N] float64.

    Not the probability: a sigmoid rounds sure predictions to the same number, and those ties would change the AUROC.
    """
    margin = logits.detach().double().diff(dim=1).squeeze(1)
    return 0.5 + 0.5 * margin / (1 + margin.abs())


class RunningMean:
    """Weighted mean of a figure over the batches of an epoch, summed on the device and read once, at the end.

    Lightning's `log` adds up the same sums, but a call of it in every step costs more than the step of a head does.
    torchmetrics' MeanMetric waits for the device in every step to leave out what is no number, or, told not to look,
    forgets the weights (1.9). What is no number shall show here.
    """

    def __init__(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self._weight: torch.Tensor | float = 0.0

    def add(self, value: torch.Tensor, weight: torch.Tensor | float) -> None:
        """Add the mean of the next batch; `weight` is what that mean was divided by, such as its number of stays."""
        self._sum = self._sum + value.detach() * weight
        self._weight = self._weight + weight

    def so_far(self) -> torch.Tensor | None:
        """The mean over the batches since `conclude`, on the device; None before the first."""
        return self._sum / self._weight if isinstance(self._sum, torch.Tensor) else None

    def conclude(self) -> torch.Tensor:
        """The mean over all batches since the last call."""
        mean = torch.as_tensor(self._sum / self._weight)
        self._sum = self._weight = 0.0
        return mean


class FiniteCheck:
    """Notes on the device whether every validation batch is finite, and looks once, at the end."""

    def __init__(self) -> None:
        self._finite: list[torch.Tensor] = []

    def add(self, values: torch.Tensor) -> None:
        """Note the scores or the loss of the next batch."""
        self._finite.append(values.isfinite().all())

    def conclude(self, metric: str) -> None:
        """Raises FloatingPointError if a batch was not finite, before anything ranks this epoch by it."""
        finite = torch.stack(self._finite)
        self._finite.clear()
        if not finite.all():
            first, count = int((~finite).nonzero()[0]), int((~finite).sum())
            raise FloatingPointError(
                f"{metric} is not finite: the model output is NaN or infinite in {count} validation batches, first in "
                f"batch {first}. Lower the learning rates, or use --precision 32-true. If there is a best.ckpt, it is "
                "from an earlier epoch."
            )


def require_finite(rows: torch.Tensor, stay_id: torch.Tensor, split: str) -> None:
    """Outside of training what is not finite is of the data or the checkpoint: rows [N] or [N, P], stay_id [N].

    Raises:
        FloatingPointError: naming the first stay whose row is not finite.
    """
    broken = ~rows.reshape(len(rows), -1).isfinite().all(dim=1).cpu()
    if broken.any():
        raise FloatingPointError(
            f"The model output is NaN or infinite for stay {stay_id.cpu()[broken][0]} of the {split} split. Check the "
            "values of that stay (python data.py check), or use --precision 32-true."
        )
