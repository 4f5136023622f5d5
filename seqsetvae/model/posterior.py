"""Health of the posterior: does each set's Gaussian say anything about the set?

Legend: S sets, D latent width.
"""

from __future__ import annotations

import torch
from torchmetrics import Metric

from seqsetvae.model.losses import kl_of_dimensions

ACTIVE_VARIANCE = 0.01  # a dimension is active if its mu varies more than this over the sets (Burda et al., 2016)


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
