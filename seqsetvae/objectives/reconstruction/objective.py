"""Reconstruction of every set plus beta times the KL divergence of its Gaussian, in float32 at least.

Legend: S sets, E events (sets in ascending order of size), n events of a set, R width of an event, D latent width, V
variables, I embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchmetrics import Metric

from seqsetvae.batches.batch import Batch
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.models.seqsetvae.history_encoder import TIME_BUCKETS
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.ops.ragged import SetSizes
from seqsetvae.ops.rowwise import at_least_float32

Terms = dict[str, torch.Tensor]


class Reconstruction(nn.Module):
    """The terms of the loss, and the health of the posterior over a validation.

    In validation the KL term is weighted by max_beta whatever the step, so that epochs compare.
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        self.posterior = PosteriorHealth(sizes.latent_dim)

    def beta(self, step: int) -> float:
        """Weight of the KL term at an optimizer step."""
        return self.settings.max_beta * min(1.0, step / max(1, self.settings.beta_warmup_steps))

    def parts(
        self, model: PretrainingModel, batch: Batch, embeddings: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(reconstruction, KL) of a batch, scalars, and the Gaussians (mu, logvar) behind them, [S, D] each."""
        encoder = model.set_encoder
        mu, logvar = encoder.gaussian(model.set_features(batch, embeddings))
        history = model.history(mu, batch, embeddings)  # stay by stay
        states = torch.empty_like(history).index_copy(0, batch.set_row, history)  # in order of size
        target = encoder.event_vectors(batch.variable, batch.value, embeddings)
        recon = reconstruction(model.decoder(states, batch.sizes), target, batch.sizes)
        return recon, kl_with_free_bits(mu, logvar, self.settings.free_bits), mu, logvar

    def training_terms(self, model: PretrainingModel, batch: Batch, embeddings: torch.Tensor, step: int) -> Terms:
        """Reconstruction plus beta · KL, and both."""
        recon, kl, _, _ = self.parts(model, batch, embeddings)
        return {"loss": recon + self.beta(step) * kl, "recon": recon, "kl": kl}

    def validation_terms(self, model: PretrainingModel, batch: Batch, embeddings: torch.Tensor) -> Terms:
        """Loss terms with beta at its maximum."""
        recon, kl, mu, logvar = self.parts(model, batch, embeddings)
        self.posterior.update(mu, logvar)
        return {"loss": recon + self.settings.max_beta * kl, "recon": recon, "kl": kl}

    def end_of_validation(self, step: int) -> dict[str, torch.Tensor | float]:
        """Dimensions of mu that vary between sets, KL per dimension, and beta."""
        active, kl_per_dimension = self.posterior.compute()
        self.posterior.reset()
        return {"val_active_units": active, "val_kl_per_dim": kl_per_dimension, "beta": self.beta(step)}

    def hyper_parameters(self) -> dict[str, Any]:
        """Settings under the names of the old pretraining script, which reads them."""
        settings = self.settings
        return {
            "beta": settings.max_beta,
            "warmup_beta": True,
            "max_beta": settings.max_beta,
            "beta_warmup_steps": settings.beta_warmup_steps,
            "free_bits": settings.free_bits,
            "time_num_frequencies": TIME_BUCKETS,
        }


# ------------------------------------------------------------------ terms


ACTIVE_VARIANCE = 0.01  # a dimension is active if its mu varies more than this over the sets (Burda et al., 2016)
DIRECTION_WEIGHT, MAGNITUDE_WEIGHT, CHAMFER_WEIGHT, SPREAD_WEIGHT = 1.0, 1.0, 3.0, 0.1
LOGVAR_WEIGHT = 0.1  # pull of the mean logvar beside the KL divergence
LENGTH_EPSILON = 1e-8
MAX_PAIRS = 2**22  # event pairs compared at once: 16 MiB a matrix, whatever the number and the size of the sets


def set_distance(recon: torch.Tensor, target: torch.Tensor, is_event: torch.Tensor | None = None) -> torch.Tensor:
    """Permutation-invariant distance of sets of one size: [count, n, R], [count, n, R] → [count].

    1·direction + 1·magnitude + 3·squared Euclidean, each as a chamfer distance, minus 0.1·variance of the
    reconstruction over its events. `is_event` [count, n] marks the events of padded sets.
    """
    with torch.autocast(recon.device.type, enabled=False):  # |p|² + |q|² - 2 p·q cancels, so p·q must not be rounded
        return _set_distance(at_least_float32(recon), at_least_float32(target), is_event)


def _set_distance(recon: torch.Tensor, target: torch.Tensor, is_event: torch.Tensor | None) -> torch.Tensor:
    recon_length, target_length = recon.norm(dim=2), target.norm(dim=2)  # [count, n]
    dot = recon @ target.transpose(1, 2)  # [count, n, n]
    direction = 1 - dot / ((recon_length[:, :, None] + LENGTH_EPSILON) * (target_length[:, None, :] + LENGTH_EPSILON))
    magnitude = (recon_length[:, :, None] - target_length[:, None, :]).abs()
    squared = (recon_length.square()[:, :, None] + target_length.square()[:, None, :] - 2 * dot).clamp_min(0)
    return (
        DIRECTION_WEIGHT * _chamfer(direction, is_event)
        + MAGNITUDE_WEIGHT * _chamfer(magnitude, is_event)
        + CHAMFER_WEIGHT * _chamfer(squared, is_event)
        - SPREAD_WEIGHT * _variance(recon, is_event).mean(dim=1)
    )


def _chamfer(distance: torch.Tensor, is_event: torch.Tensor | None) -> torch.Tensor:
    """½ (mean over i of min over j + mean over j of min over i): [count, n, n] → [count]."""
    if is_event is not None:  # padding is never nearest; finite, since 0 · inf would be NaN
        pairs = is_event[:, :, None] & is_event[:, None, :]
        distance = distance.masked_fill(~pairs, torch.finfo(distance.dtype).max)
    return 0.5 * (_mean(distance.amin(dim=2), is_event) + _mean(distance.amin(dim=1), is_event))


def _mean(x: torch.Tensor, is_event: torch.Tensor | None) -> torch.Tensor:
    """Mean over the events of each set: [count, n, ...] → [count, ...]."""
    if is_event is None:
        return x.mean(dim=1)
    events = is_event.view(*is_event.shape, *[1] * (x.ndim - 2))
    return x.masked_fill(~events, 0).sum(dim=1) / events.sum(dim=1)


def _variance(x: torch.Tensor, is_event: torch.Tensor | None) -> torch.Tensor:
    """Variance over the events of each set: [count, n, R] → [count, R]. In two passes: torch.var is slow over dim 1."""
    return _mean((x - _mean(x, is_event)[:, None]).square(), is_event)


def reconstruction(recon: torch.Tensor, target: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    """Mean distance over all sets: [E, R], [E, R] → scalar. Sets are compared in pieces of at most MAX_PAIRS pairs."""
    total = recon.new_zeros((), dtype=torch.promote_types(recon.dtype, torch.float32))
    for is_event, *parts in zip(sizes.event_masks(), sizes.split(recon), sizes.split(target), strict=True):
        most = max(1, MAX_PAIRS // parts[0].shape[1] ** 2)
        pieces = [part.split(most) for part in parts]
        masks = [None] * len(pieces[0]) if is_event is None else is_event.split(most)
        for piece in zip(*pieces, masks, strict=True):
            total = total + set_distance(*piece).sum()
    return total / sum(count for _, count in sizes.runs)


def kl_of_dimensions(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, 1)) of every set and dimension: [S, D], [S, D] → [S, D]."""
    mu, logvar = at_least_float32(mu), at_least_float32(logvar)
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def kl_with_free_bits(mu: torch.Tensor, logvar: torch.Tensor, free_bits: float) -> torch.Tensor:
    """Mean over sets of max(KL, free_bits · D) − 0.1 · mean logvar: [S, D], [S, D] → scalar (Kingma et al., 2016)."""
    kl = kl_of_dimensions(mu, logvar).sum(dim=1).clamp_min(free_bits * mu.shape[1])
    return (kl - LOGVAR_WEIGHT * at_least_float32(logvar).mean(dim=1)).mean()


class PosteriorHealth(Metric):
    """Number of active dimensions and mean KL per dimension, exact over all sets of a validation."""

    n_sets: torch.Tensor
    mu_sum: torch.Tensor
    mu_square_sum: torch.Tensor
    kl_sum: torch.Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        zeros = torch.zeros(latent_dim, dtype=torch.float64)
        self.add_state("n_sets", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("mu_sum", "mu_square_sum", "kl_sum"):
            self.add_state(name, zeros.clone(), dist_reduce_fx="sum")

    def update(self, mu: torch.Tensor, logvar: torch.Tensor) -> None:
        """Add the Gaussians of some sets: [S, D], [S, D]."""
        mu, logvar = mu.detach().double(), logvar.detach().double()
        self.n_sets = self.n_sets + len(mu)
        self.mu_sum = self.mu_sum + mu.sum(0)
        self.mu_square_sum = self.mu_square_sum + mu.square().sum(0)
        self.kl_sum = self.kl_sum + kl_of_dimensions(mu, logvar).sum(0)

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(active dimensions, mean KL per dimension in nats)."""
        variance = self.mu_square_sum / self.n_sets - (self.mu_sum / self.n_sets).square()
        return (variance > ACTIVE_VARIANCE).sum().float(), (self.kl_sum / self.n_sets).mean().float()
