"""Losses of fine-tuning. All are computed in float32 at least.

Legend: N stays, C = 2 classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, positive_weight: float = 1.0, smoothing: float = 0.0
                  ) -> torch.Tensor:
    """Cross-entropy of logits [N, 2] and classes [N], a weighted mean over the stays.

    `positive_weight` weighs the stays of class 1 against those of class 0; `smoothing` moves so much of each target to
    the uniform distribution (Szegedy et al., 2016).
    """
    logits = _at_least_float32(logits)
    weight = logits.new_tensor([1.0, positive_weight]) if positive_weight != 1.0 else None
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float | None) -> torch.Tensor:
    """Focal loss (Lin et al., 2017, equation 5) of logits [N, 2] and classes [N], a mean over the stays.

    `alpha` weighs class 1 and 1 - alpha class 0; None weighs both by 1. Written in log-probabilities, so that a sure
    mistake stays finite.
    """
    log_probability = F.log_softmax(_at_least_float32(logits), dim=1).gather(1, target[:, None]).squeeze(1)  # [N]
    # The floor keeps the power's gradient finite where the model is sure and right and gamma lies below 1.
    miss = (-torch.expm1(log_probability)).clamp_min(torch.finfo(log_probability.dtype).tiny)  # 1 - p of the true class
    loss = -(miss**gamma) * log_probability
    if alpha is not None:
        loss = loss * torch.where(target == 1, alpha, 1 - alpha)
    return loss.mean()


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
