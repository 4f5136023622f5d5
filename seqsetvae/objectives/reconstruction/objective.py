"""Reconstruction of every set plus beta times the KL divergence of its Gaussian.

Legend: S sets, E events, D latent width, V variables, I embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.models.seqsetvae.history_encoder import TIME_BUCKETS
from seqsetvae.models.seqsetvae.sizes import Sizes
from seqsetvae.objectives.reconstruction.loss import PosteriorHealth, kl_with_free_bits, reconstruction

if TYPE_CHECKING:
    from seqsetvae.objectives.reconstruction import Settings

Terms = dict[str, torch.Tensor]


class Reconstruction(nn.Module):
    """The terms of the loss, and the health of the posterior over a validation.

    In validation the KL term is weighted by max_beta whatever the step, so that epochs compare.
    """

    def __init__(self, settings: Settings, sizes: Sizes) -> None:
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
        history = model.history(mu, batch)  # stay by stay
        states = torch.empty_like(history).index_copy(0, batch.set_row, history)  # in order of size
        target = encoder.event_vectors(batch.variable, batch.value, embeddings)
        recon = reconstruction(model.decoder(states, batch.sizes), target, batch.sizes)
        return recon, kl_with_free_bits(mu, logvar, self.settings.free_bits), mu, logvar

    def training_terms(self, model: PretrainingModel, batch: Batch, embeddings: torch.Tensor, step: int) -> Terms:
        """Reconstruction plus beta · KL, and both."""
        recon, kl, _, _ = self.parts(model, batch, embeddings)
        return {"loss": recon + self.beta(step) * kl, "recon": recon, "kl": kl}

    def validation_terms(self, model: PretrainingModel, batch: Batch, embeddings: torch.Tensor) -> Terms:
        """The same with beta at its maximum."""
        recon, kl, mu, logvar = self.parts(model, batch, embeddings)
        self.posterior.update(mu, logvar)
        return {"loss": recon + self.settings.max_beta * kl, "recon": recon, "kl": kl}

    def end_of_validation(self, step: int) -> dict[str, torch.Tensor | float]:
        """Dimensions of mu that vary between sets, KL per dimension, and beta."""
        active, kl_per_dimension = self.posterior.compute()
        self.posterior.reset()
        return {"val_active_units": active, "val_kl_per_dim": kl_per_dimension, "beta": self.beta(step)}

    def hyper_parameters(self) -> dict[str, Any]:
        """Under the names of the old pretraining script, which reads them back."""
        settings = self.settings
        return {
            "beta": settings.max_beta,
            "warmup_beta": True,
            "max_beta": settings.max_beta,
            "beta_warmup_steps": settings.beta_warmup_steps,
            "free_bits": settings.free_bits,
            "time_num_frequencies": TIME_BUCKETS,
        }
