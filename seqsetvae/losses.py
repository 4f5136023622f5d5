"""Losses of fine-tuning, computed in float32 at least.

Legend: N stays, C = 2 classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from seqsetvae.ops.precision import at_least_float32


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, class_weight: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of logits [N, 2] and classes [N], a weighted mean over the stays.

    `class_weight` [2] weighs the stays of each class; `smoothing` moves so much of each target to the uniform
    distribution (Szegedy et al., 2016).
    """
    logits = at_least_float32(logits)
    weight = None if class_weight is None else class_weight.to(logits)
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)


def soft_cross_entropy(logits: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [N, 2] and probabilities of class 1 [N], a mean over the stays."""
    logits = at_least_float32(logits)
    return F.cross_entropy(logits, torch.stack([1 - probability, probability], dim=1).to(logits))


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float | None) -> torch.Tensor:
    """Focal loss (Lin et al., 2017, equation 5) of logits [N, 2] and classes [N], a mean over the stays.

    `alpha` weighs class 1 and 1 - alpha class 0; None weighs both by 1. Written in log-probabilities, so that a sure
    mistake stays finite.
    """
    log_probability = F.log_softmax(at_least_float32(logits), dim=1).gather(1, target[:, None]).squeeze(1)  # [N]
    # The floor keeps the power's gradient finite where the model is sure and right and gamma lies below 1.
    miss = (-torch.expm1(log_probability)).clamp_min(torch.finfo(log_probability.dtype).tiny)  # 1 - p of the true class
    loss = -(miss**gamma) * log_probability
    if alpha is not None:
        loss = loss * torch.where(target == 1, alpha, 1 - alpha)
    return loss.mean()


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """`name` is cross_entropy or focal; each reads only its own numbers."""

    name: str
    positive_weight: float
    label_smoothing: float
    focal_gamma: float
    focal_alpha: float | None

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, class_weight: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2], targets [N], weights of the classes [2] on the same device → scalar.

        Targets are classes (integers) or probabilities of class 1 (floating-point numbers, with cross_entropy only).
        """
        if target.is_floating_point():
            assert self.name == "cross_entropy", "settings are checked before a mode runs"
            return soft_cross_entropy(logits, target)
        if self.name == "focal":
            return focal(logits, target, self.focal_gamma, self.focal_alpha)
        return cross_entropy(logits, target, class_weight, self.label_smoothing)

    def weight(self, target: torch.Tensor, class_weight: torch.Tensor) -> torch.Tensor | float:
        """What the mean over these stays divides by: their class weights in all, or without weights their number."""
        weighted = self.name == "cross_entropy" and self.positive_weight != 1 and not target.is_floating_point()
        return class_weight[target].sum() if weighted else float(len(target))
