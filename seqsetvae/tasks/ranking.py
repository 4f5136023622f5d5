"""Metrics of several binary labels, or of each class against the others.

Legend: n stays, K labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from seqsetvae.tasks.curves import outcome_curves
from seqsetvae.tasks.scores import RANKING, Scores, title_of

OF_EACH = (*RANKING, "brier")  # metrics of each label

Floats = NDArray[np.float64]


def mean_ranking(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """AUROC and average precision, means over the labels of which both classes occur: log-odds and 0/1/NaN [n, K]."""
    auc, auprc = [], []
    for column, label in zip(output.double().T, target.T, strict=True):
        known = ~label.isnan()
        score, truth = ranking_score(column[known]), label[known].long()
        if 0 < int(truth.sum()) < len(truth):
            auc.append(binary_auroc(score, truth, validate_args=False))
            auprc.append(binary_average_precision(score, truth, validate_args=False))
    undefined = torch.full((1,), torch.nan, device=output.device)
    return {name: torch.stack(found or [undefined[0]]).mean() for name, found in (("auc", auc), ("auprc", auprc))}


def ranking_score(logit: torch.Tensor) -> torch.Tensor:
    """Scores in (0, 1) that rank stays exactly as their log-odds do: [n] → [n], the ranks of their distinct values.

    Not the probability: a sigmoid rounds large log-odds to the same number, and those ties would change the AUROC. Any
    other function that squeezes all log-odds into (0, 1) does so too, only later.
    """
    distinct, rank = logit.unique(return_inverse=True)
    return (rank.double() + 0.5) / len(distinct)


def binary_figures(
    names: Sequence[str], logit: Floats, target: Floats, calibrated: Floats | None = None
) -> Callable[[Floats], dict[str, Floats]]:
    """AUROC, AUPRC and Brier score of each label, and means over the labels: log-odds and 0/1/NaN [n, K].

    The Brier score is that of the calibrated log-odds [n, K], if there are any.
    """
    known = ~np.isnan(target)
    risk = logit if calibrated is None else calibrated
    scores = [
        Scores(target[rows, k].astype(np.int64), logit[rows, k], calibrated_logit=risk[rows, k])
        for k, rows in enumerate(known.T)
    ]

    def of(weights: Floats) -> dict[str, Floats]:
        each = [one.figures(weights[:, rows], OF_EACH) for one, rows in zip(scores, known.T, strict=True)]
        found = {f"mean {title_of(key)}": np.mean([one[key] for one in each], axis=0) for key in RANKING}
        pairs = ((key, name, one) for name, one in zip(names, each, strict=True) for key in OF_EACH)
        return found | {f"{title_of(key)} of {name}": one[key] for key, name, one in pairs}

    return of


def label_curves(
    names: Sequence[str],
    logit: Floats,
    target: Floats,
    calibrated: Floats | None = None,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Curves of each label of which both classes occur: log-odds, perhaps calibrated ones, and 0/1/NaN [n, K]."""
    found = []
    for k, name in enumerate(names):
        known = ~np.isnan(target[:, k])
        kinds = {"as predicted": logit, "calibrated": calibrated}
        risks = {kind: expit(each[known, k]) for kind, each in kinds.items() if each is not None}
        found += outcome_curves(name, target[known, k].astype(np.int64), logit[known, k], risks, threshold)
    return found
