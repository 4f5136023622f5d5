"""Figures of several binary labels, or of each class against the others.

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

from seqsetvae.evaluation.curves import outcome_curves
from seqsetvae.evaluation.predictions import ranking_score
from seqsetvae.evaluation.statistics import Scores

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


def binary_figures(names: Sequence[str], logit: Floats, target: Floats) -> Callable[[Floats], dict[str, Floats]]:
    """AUROC, AUPRC and Brier score of each label, and means over the labels: log-odds and 0/1/NaN [n, K]."""
    known = ~np.isnan(target)
    scores = [Scores(target[rows, k].astype(np.int64), logit[rows, k]) for k, rows in enumerate(known.T)]
    errors = [(each.label - expit(each.logit)) ** 2 for each in scores]

    def of(weights: Floats) -> dict[str, Floats]:
        rankings = [each.ranking(weights[:, rows]) for each, rows in zip(scores, known.T, strict=True)]
        found = {
            f"mean {title}": np.mean([ranking[key] for ranking in rankings], axis=0)
            for key, title in (("auroc", "AUROC"), ("auprc", "AUPRC"))
        }
        for k, (name, ranking) in enumerate(zip(names, rankings, strict=True)):
            drawn = weights[:, known[:, k]]
            found |= {
                f"AUROC of {name}": ranking["auroc"],
                f"AUPRC of {name}": ranking["auprc"],
                f"Brier score of {name}": drawn @ errors[k] / drawn.sum(axis=1),
            }
        return found

    return of


def label_curves(names: Sequence[str], logit: Floats, target: Floats) -> list[dict[str, Any]]:
    """Curves of each label of which both classes occur: log-odds and 0/1/NaN [n, K]."""
    found = []
    for name, score, truth in zip(names, logit.T, target.T, strict=True):
        known = ~np.isnan(truth)
        risks = {"as predicted": expit(score[known])}
        found += outcome_curves(name, truth[known].astype(np.int64), score[known], risks)
    return found
