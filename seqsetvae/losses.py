"""Losses of fine-tuning and pretraining. All are computed in float32 at least.

Legend: N stays, C = 2 classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from seqsetvae.ops.padded import SetSizes, filled_places, pad_events, runs_of
from seqsetvae.ops.ragged import split_events


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, class_weight: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of logits [N, 2] and classes [N], a weighted mean over the stays.

    `class_weight` [2] weighs the stays of each class; `smoothing` moves so much of each target to the uniform
    distribution (Szegedy et al., 2016).
    """
    logits = _at_least_float32(logits)
    weight = None if class_weight is None else class_weight.to(logits)
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


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """`name` is cross_entropy or focal; each reads only its own numbers."""

    name: str
    positive_weight: float
    label_smoothing: float
    focal_gamma: float
    focal_alpha: float | None

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, class_weight: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2], classes [N], weights of the classes [2] on the same device → scalar."""
        if self.name == "focal":
            return focal(logits, target, self.focal_gamma, self.focal_alpha)
        return cross_entropy(logits, target, class_weight, self.label_smoothing)

    def weight(self, target: torch.Tensor, class_weight: torch.Tensor) -> torch.Tensor | float:
        """What the mean over these stays divides by: their class weights in all, or without weights their number."""
        weighted = self.name == "cross_entropy" and self.positive_weight != 1
        return class_weight[target].sum() if weighted else float(len(target))


# --- Pretraining ------------------------------------------------------------------------------------------------------
# Legend: S sets, E events (sets in ascending order of size), n events of a set, R width of an event, D latent width.

DIRECTION_WEIGHT, MAGNITUDE_WEIGHT, CHAMFER_WEIGHT, SPREAD_WEIGHT = 1.0, 1.0, 3.0, 0.1
LOGVAR_WEIGHT = 0.1  # pull of the mean logvar beside the KL divergence
LENGTH_EPSILON = 1e-8
MAX_PAIRS = 2**22  # event pairs compared at once: 16 MiB a matrix, whatever the number and the size of the sets


def set_distance(recon: torch.Tensor, target: torch.Tensor, filled: torch.Tensor | None = None) -> torch.Tensor:
    """Permutation-invariant distance of sets of one size: [count, n, R], [count, n, R] → [count].

    1·direction + 1·magnitude + 3·squared Euclidean, each as a chamfer distance, minus 0.1·variance of the
    reconstruction over its events. Of padded sets `filled` [count, n] says where their events are.
    """
    with torch.autocast(recon.device.type, enabled=False):  # |p|² + |q|² - 2 p·q cancels, so p·q must not be rounded
        return _set_distance(_at_least_float32(recon), _at_least_float32(target), filled)


def _set_distance(recon: torch.Tensor, target: torch.Tensor, filled: torch.Tensor | None) -> torch.Tensor:
    recon_length, target_length = recon.norm(dim=2), target.norm(dim=2)  # [count, n]
    dot = recon @ target.transpose(1, 2)  # [count, n, n]
    direction = 1 - dot / ((recon_length[:, :, None] + LENGTH_EPSILON) * (target_length[:, None, :] + LENGTH_EPSILON))
    magnitude = (recon_length[:, :, None] - target_length[:, None, :]).abs()
    squared = (recon_length.square()[:, :, None] + target_length.square()[:, None, :] - 2 * dot).clamp_min(0)
    return (
        DIRECTION_WEIGHT * _chamfer(direction, filled)
        + MAGNITUDE_WEIGHT * _chamfer(magnitude, filled)
        + CHAMFER_WEIGHT * _chamfer(squared, filled)
        - SPREAD_WEIGHT * _variance(recon, filled).mean(dim=1)
    )


def _chamfer(distance: torch.Tensor, filled: torch.Tensor | None) -> torch.Tensor:
    """½ (mean over i of min over j + mean over j of min over i): [count, n, n] → [count]."""
    if filled is not None:  # padding is never nearest; finite, since 0 · inf would be no number
        pairs = filled[:, :, None] & filled[:, None, :]
        distance = distance.masked_fill(~pairs, torch.finfo(distance.dtype).max)
    return 0.5 * (_mean(distance.amin(dim=2), filled) + _mean(distance.amin(dim=1), filled))


def _mean(x: torch.Tensor, filled: torch.Tensor | None) -> torch.Tensor:
    """Mean over the events of each set: [count, n, ...] → [count, ...]."""
    if filled is None:
        return x.mean(dim=1)
    events = filled.view(*filled.shape, *[1] * (x.ndim - 2))
    return x.masked_fill(~events, 0).sum(dim=1) / events.sum(dim=1)


def _variance(x: torch.Tensor, filled: torch.Tensor | None) -> torch.Tensor:
    """Variance over the events of each set: [count, n, R] → [count, R]. In two passes: torch.var is slow over dim 1."""
    return _mean((x - _mean(x, filled)[:, None]).square(), filled)


def reconstruction(recon: torch.Tensor, target: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    """Mean distance over all sets: [E, R], [E, R] → scalar. Sets are compared in pieces of at most MAX_PAIRS pairs."""
    total = recon.new_zeros((), dtype=torch.promote_types(recon.dtype, torch.float32))
    runs = runs_of(sizes)
    events = (split_events(pad_events(part, sizes), runs) for part in (recon, target))
    for (size, count), filled, *parts in zip(runs, filled_places(sizes), *events, strict=True):
        most = max(1, MAX_PAIRS // (size * size))
        pieces = [part.view(count, size, -1).split(most) for part in parts]
        masks = [None] * len(pieces[0]) if filled is None else filled.split(most)
        for piece in zip(*pieces, masks, strict=True):
            total = total + set_distance(*piece).sum()
    return total / sum(count for _, count in runs)


def kl_of_dimensions(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, 1)) of every set and dimension: [S, D], [S, D] → [S, D]."""
    mu, logvar = _at_least_float32(mu), _at_least_float32(logvar)
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def kl_with_free_bits(mu: torch.Tensor, logvar: torch.Tensor, free_bits: float) -> torch.Tensor:
    """Mean over sets of max(KL, free_bits · D) − 0.1 · mean logvar: [S, D], [S, D] → scalar (Kingma et al., 2016)."""
    kl = kl_of_dimensions(mu, logvar).sum(dim=1).clamp_min(free_bits * mu.shape[1])
    return (kl - LOGVAR_WEIGHT * _at_least_float32(logvar).mean(dim=1)).mean()


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Weight of the KL term: rises linearly from 0 to `max_beta` in `beta_warmup_steps`; `free_bits` per dimension."""

    max_beta: float
    beta_warmup_steps: int
    free_bits: float
