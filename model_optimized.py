"""The LightningModules: the fine-tuner (a backbone, frozen or not, and a two-layer head) and the pretrainer.

Legend: N stays of a batch, S sets, D latent width, V variables, I embedding width.
A fine-tuner lives through both stages; `freeze_backbone` or `unfreeze_backbone` is called before a fit, never in one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from seqsetvae import losses
from seqsetvae.architectures.seqsetvae.backbone import Backbone
from seqsetvae.architectures.seqsetvae.decoder import PretrainingModel
from seqsetvae.architectures.seqsetvae.history_encoder import TIME_BUCKETS
from seqsetvae.batch import Batch, PooledBatch
from seqsetvae.checkpoint import FINGERPRINTS, TrainedOn
from seqsetvae.cohort.transform import AS_STORED, VALUE_TRANSFORM, ValueTransform
from seqsetvae.evaluation.predictions import GatheredPredictions
from seqsetvae.head import Head, HeadSettings, pool
from seqsetvae.losses import LossSettings, ObjectiveSettings
from seqsetvae.metrics import FiniteCheck, PosteriorHealth, RunningMean
from seqsetvae.optimizer import OptimizerSettings, adamw, parameter_groups


class LargeBatchGradient(pl.LightningModule):
    """With gradient accumulation, an optimizer step gets the gradient of one large batch of the same stays.

    Lightning divides the mean loss of each batch by `accumulate_grad_batches`, as if all batches were equally large and
    every group complete. Here a batch counts by the weight its mean divides by, relative to the first of its group.
    """

    _first_weight: float | torch.Tensor
    _group_weight: float | torch.Tensor = 0.0  # of the group so far, in units of its first batch; 0: none yet

    def weighted(self, loss: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        """What training_step returns for a mean loss that was divided by `weight` (stays or sets, for example)."""
        if self.trainer.accumulate_grad_batches == 1:
            return loss
        if isinstance(self._group_weight, float) and self._group_weight == 0.0:
            self._first_weight = weight
        share = weight / self._first_weight
        self._group_weight = self._group_weight + share
        return loss * share

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Before clipping: divide by the weight of the group in place of the number of batches of a full one."""
        if self.trainer.accumulate_grad_batches == 1:
            return
        parameters = [value for group in optimizer.param_groups for value in group["params"]]
        gradients = [value.grad for value in parameters if value.grad is not None]
        torch._foreach_mul_(gradients, self.trainer.accumulate_grad_batches / self._group_weight)
        self._group_weight = 0.0


class SeqSetVAEFineTuner(LargeBatchGradient):
    """Predicts a binary outcome of each stay; watches val_auc and val_auprc, exact over the whole split."""

    embeddings: torch.Tensor
    class_weight: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: HeadSettings,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        embeddings: torch.Tensor,
        trained_on: TrainedOn,
    ) -> None:
        """A new head on this backbone, which is frozen until `unfreeze_backbone`.

        `embeddings` [V, I] are the vectors of the cohort's variables; they belong to the data, not to the weights.
        """
        super().__init__()
        self.save_hyperparameters(
            {
                "sizes": backbone.sizes.as_dict(),
                "head": asdict(head),
                "loss": asdict(loss),
                "optimizer": asdict(optimizer),
                FINGERPRINTS: trained_on.fingerprints,
                "label_name": trained_on.label_name,
                "max_sets": trained_on.max_sets,
                VALUE_TRANSFORM: trained_on.transform.as_plain(),
            }
        )
        self.loss, self.optimizer_settings, self.pooling = loss, optimizer, head.pooling
        self.backbone = backbone
        self.head = Head(backbone.sizes.latent_dim, head.pooling, head.hidden, head.dropout)
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("class_weight", torch.tensor([1.0, loss.positive_weight]), persistent=False)
        self.train_loss, self.val_loss = RunningMean(), RunningMean()
        self.val_predictions = GatheredPredictions("valid")
        self.finite = FiniteCheck()
        self.freeze_backbone()

    def freeze_backbone(self) -> None:
        """Stage 1: the backbone gets no gradient and no dropout."""
        self.backbone.requires_grad_(False)
        self.frozen = True
        self.train(self.training)  # Lightning keeps the modes it finds, so they must be right before a fit

    def unfreeze_backbone(self) -> None:
        """Stage 2: everything trains."""
        self.backbone.requires_grad_(True)
        self.frozen = False
        self.train(self.training)

    def train(self, mode: bool = True) -> SeqSetVAEFineTuner:
        """Training mode for what trains; a frozen backbone stays in evaluation mode, whoever calls this."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, batch: Batch | PooledBatch) -> torch.Tensor:
        """Logits of each stay: [N, 2]."""
        return self.head(batch.pooled if isinstance(batch, PooledBatch) else self.pooled(batch))

    def pooled(self, batch: Batch) -> torch.Tensor:
        """Pooled history of each stay: [N, P]; without a gradient while the backbone is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return pool(self.backbone(batch, self.embeddings), batch, self.pooling)

    def training_step(self, batch: Batch | PooledBatch, batch_index: int) -> torch.Tensor:
        """Mean loss of the batch."""
        loss = self.loss(self(batch), batch.label, self.class_weight)
        weight = self.loss.weight(batch.label, self.class_weight)
        self.train_loss.update(loss, weight)
        if self.trainer.is_last_batch:
            self.log("train_loss", self.train_loss.compute_and_reset(), on_step=False, on_epoch=True, batch_size=1)
        return self.weighted(loss, weight)

    def validation_step(self, batch: Batch | PooledBatch, batch_index: int) -> None:
        """Scores go to the metric objects as they are; nothing is read back to the host here."""
        logits = self(batch)
        self.val_predictions.update(logits, batch.label, batch.stay_id)
        self.finite.update(logits, batch_index)
        loss = self.loss(logits, batch.label, self.class_weight)
        self.val_loss.update(loss, self.loss.weight(batch.label, self.class_weight))

    def on_validation_epoch_end(self) -> None:
        """Figures of the whole split, unless scores that are not numbers stop the run before anything ranks by them."""
        self.finite.check_and_reset("val_auc")
        ranking = self.val_predictions.table().ranking()
        self.val_predictions.reset()
        self.log_dict({"val_loss": self.val_loss.compute_and_reset()} | {f"val_{k}": v for k, v in ranking.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over named groups; all groups exist from the start, a frozen backbone has none."""
        settings = self.optimizer_settings
        groups = parameter_groups("head", self.head, settings.head_lr, settings.weight_decay)
        groups += parameter_groups("backbone", self.backbone, settings.backbone_lr, settings.weight_decay)
        return adamw(groups)


class SeqSetVAEPretrainer(LargeBatchGradient):
    """Reconstructs every set from its history state; its checkpoints have the layout of the old pretraining script.

    val_loss weighs the KL term by max_beta whatever the step, so that epochs compare.
    """

    embeddings: torch.Tensor

    def __init__(
        self,
        model: PretrainingModel,
        objective: ObjectiveSettings,
        lr: float,
        weight_decay: float,
        embeddings: torch.Tensor,
        fingerprints: dict[str, str],
        transform: ValueTransform = AS_STORED,
    ) -> None:
        """`embeddings` [V, I], `fingerprints` and `transform` as for the fine-tuner."""
        super().__init__()
        # Under the names of the old script, which reads them back.
        self.save_hyperparameters(
            {
                **model.sizes.as_dict(),
                "lr": lr,
                "beta": objective.max_beta,
                "warmup_beta": True,
                **asdict(objective),
                "time_num_frequencies": TIME_BUCKETS,
            }
        )
        self.model, self.objective, self.lr, self.weight_decay = model, objective, lr, weight_decay
        self.fingerprints, self.transform = fingerprints, transform
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.train_loss = RunningMean()
        self.posterior = PosteriorHealth(model.sizes.latent_dim)
        self.finite = FiniteCheck()

    def beta(self) -> float:
        """Weight of the KL term at this step."""
        return self.objective.max_beta * min(1.0, self.global_step / max(1, self.objective.beta_warmup_steps))

    def terms(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(reconstruction, KL) of a batch, scalars, and the Gaussians (mu, logvar) behind them, [S, D] each."""
        encoder = self.model.set_encoder
        mu, logvar = encoder.gaussian(self.model.set_features(batch, self.embeddings))
        history = self.model.history(mu, batch)  # stay by stay
        states = torch.empty_like(history).index_copy(0, batch.set_row, history)  # in order of size
        target = encoder.event_vectors(batch.variable, batch.value, self.embeddings)
        recon = losses.reconstruction(self.model.decoder(states, batch.sizes), target, batch.sizes)
        return recon, losses.kl_with_free_bits(mu, logvar, self.objective.free_bits), mu, logvar

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Reconstruction plus beta · KL."""
        recon, kl, _, _ = self.terms(batch)
        loss = recon + self.beta() * kl
        self.train_loss.update(loss, batch.n_sets)
        self.log_dict({"train_recon": recon, "train_kl": kl}, on_step=False, on_epoch=True, batch_size=batch.n_sets)
        if self.trainer.is_last_batch:
            self.log("train_loss", self.train_loss.compute_and_reset(), on_step=False, on_epoch=True, batch_size=1)
        return self.weighted(loss, batch.n_sets)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """The same with beta at its end; the decoder's seeds are the same in every validation."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(batch_index)
            recon, kl, mu, logvar = self.terms(batch)
        self.finite.update(recon + kl, batch_index)
        self.posterior.update(mu, logvar)
        self.log_dict(
            {"val_loss": recon + self.objective.max_beta * kl, "val_recon": recon, "val_kl": kl},
            on_step=False,
            on_epoch=True,
            batch_size=batch.n_sets,
        )

    def on_validation_epoch_end(self) -> None:
        """Posterior health: dimensions of mu that vary between sets, and KL per dimension."""
        self.finite.check_and_reset("val_loss")
        active, kl_per_dimension = self.posterior.compute()
        self.posterior.reset()
        self.log_dict({"val_active_units": active, "val_kl_per_dim": kl_per_dimension, "beta": self.beta()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the weights that the loss never reaches have no gradient and are in no group."""
        return adamw(parameter_groups("model", self.model, self.lr, self.weight_decay))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The file's keys are those of the old pretraining script."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.removeprefix("model."): value for name, value in state.items()}
        checkpoint[FINGERPRINTS] = self.fingerprints
        checkpoint[VALUE_TRANSFORM] = self.transform.as_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The reverse, so that Lightning can resume."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {f"model.{name}": value for name, value in state.items()}
