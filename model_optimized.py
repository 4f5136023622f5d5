"""The LightningModules: the fine-tuner (a backbone, frozen or not, and a two-layer head) and the pretrainer.

Legend: N stays of a batch, S sets, P pooled width, V variables, I embedding width.
A fine-tuner is used in both stages; `freeze_backbone` or `unfreeze_backbone` is called before a fit, never in one.
"""

from __future__ import annotations

from typing import Any

import torch

from seqsetvae.batches.batch import Batch, PooledBatch
from seqsetvae.batches.transform import PLAIN, VALUE_TRANSFORM, ValueTransform
from seqsetvae.checkpoint.record import ARCHITECTURE, MEDIAN_HOURS, TASK, VARIABLES, TrainedOn, record_of
from seqsetvae.cohort.profile import PROFILE, Profile
from seqsetvae.cohort.variables import Variables
from seqsetvae.models.beside import SUMMARIES, BesideSummaries, main_part
from seqsetvae.models.head import build_head, recorded_settings
from seqsetvae.models.members import Members
from seqsetvae.ops.lora import adapters, merged_state, with_adapters
from seqsetvae.settings.groups import FinetuningRates, HeadSettings
from seqsetvae.settings.tuning import TuningSettings
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.model import GatheredOutputs, Loss
from seqsetvae.training.metrics import FiniteCheck, RunningMean
from seqsetvae.training.optimizer import (
    LargeBatchGradient,
    adamw,
    backbone_groups,
    freeze,
    parameter_groups,
    rates_of_parts,
    set_training_mode,
    unfreeze,
)

LORA = "lora"  # in checkpoints of a run with LoRA: frozen weights and added matrices, from which it can be resumed


class SeqSetVAEFineTuner(LargeBatchGradient):
    """Predicts the labels of a task for each stay; metrics are exact over the whole split."""

    embeddings: torch.Tensor

    def __init__(
        self,
        backbone: Any,
        head: HeadSettings,
        loss: Loss,
        rates: FinetuningRates,
        weight_decay: float,
        embeddings: torch.Tensor,
        trained_on: TrainedOn,
        members: Members | None = None,
        tuning: TuningSettings = TuningSettings(),  # noqa: B008  (frozen)
    ) -> None:
        """A new head on this backbone, which is frozen until `unfreeze_backbone`.

        Args:
            backbone: of any architecture (seqsetvae/models/__init__.py says what it offers).
            head, loss, rates, weight_decay, trained_on: recorded in every checkpoint, with the task, that of the loss.
            embeddings: [V, I], the vectors of the cohort's variables, or what else stands for them
                (`variables.variable_table`); they belong to the data, not to the weights.
            members: averaged with the network in predictions; trained already, and recorded too.
            tuning: what of the backbone trains once it is unfrozen.
        """
        super().__init__()
        self.save_hyperparameters(
            {
                ARCHITECTURE: backbone.architecture,
                "sizes": backbone.sizes.as_dict(),
                **recorded_settings(head, loss, rates, weight_decay),
                "label_name": trained_on.label_name,
                "max_sets": trained_on.max_sets,
                VALUE_TRANSFORM: trained_on.transform.as_plain(),
                MEDIAN_HOURS: trained_on.median_hours,
                TASK: loss.spec.as_plain(),
            }
            | ({} if trained_on.profile is None else {PROFILE: trained_on.profile.as_plain()})
            | ({} if members is None else members.as_plain())
            | ({SUMMARIES: backbone.summaries.sizes.as_dict()} if isinstance(backbone, BesideSummaries) else {})
        )
        self.learning_rates, self.weight_decay, self.pooling = rates, weight_decay, head.head_pooling
        self.variables = trained_on.variables
        self.tuning = tuning
        self.backbone = backbone
        backbone.before_finetuning()
        self.spec = loss.spec
        self.head = build_head(backbone.pooled_width(self.pooling), head, self.spec.outputs)
        self.watched = f"val_{TASKS[self.spec.task].WATCHED}"
        self.loss, self.members = loss, members
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.train_loss, self.val_loss = RunningMean(), RunningMean()
        self.val_predictions = GatheredOutputs(self.spec)
        self.finite = FiniteCheck()
        self.freeze_backbone()

    def freeze_backbone(self) -> None:
        """Stage 1: the backbone gets no gradient and no dropout."""
        freeze(self.backbone)
        self.frozen = True
        self.train(self.training)  # Lightning keeps the modes it finds, so they must be right before a fit

    def unfreeze_backbone(self) -> None:
        """Stage 2: train the parameters that `tuning` names, by default all."""
        unfreeze(self.backbone, self.tuning)
        self.frozen = False
        self.train(self.training)

    def train(self, mode: bool = True) -> SeqSetVAEFineTuner:
        """Set training mode for what trains; a frozen backbone stays in evaluation mode, whoever calls this."""
        super().train(mode)
        set_training_mode(self.backbone, mode and not self.frozen, self.tuning)
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have a learning rate of their own."""
        return ("head", *rates_of_parts(self.backbone, self.tuning, self.learning_rates))

    def forward(self, batch: Batch | PooledBatch) -> torch.Tensor:
        """Outputs of the head, in training of each member of an ensemble: [N, O] or [N, K, O]; O = 2 for one label."""
        if isinstance(self.backbone, BesideSummaries):
            return self.head(self.backbone.pooled(batch, self.embeddings, self.pooling))
        return self.head(batch.pooled if isinstance(batch, PooledBatch) else self.pooled(batch))

    def predicted(self, batch: Batch | PooledBatch) -> torch.Tensor:
        """The predicted outputs: those of the head, averaged with the other members."""
        if self.members is None or (isinstance(batch, PooledBatch) and batch.prepared is None):
            return self(batch)
        return self.members.average(self(batch), lambda: self.backbone.table(batch, self.embeddings))

    def pooled(self, batch: Batch) -> torch.Tensor:
        """What can be frozen and cached, the pooled history of each stay: [N, P]; no gradient while it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return main_part(self.backbone).pooled(batch, self.embeddings, self.pooling)

    def training_step(self, batch: Batch | PooledBatch, batch_index: int) -> torch.Tensor:
        """Mean loss of the batch, over all members of an ensemble head."""
        logits, target = self(batch), _target(batch)
        if logits.ndim == 3:
            target = target.repeat_interleave(logits.shape[1], dim=0)
            logits = logits.flatten(0, 1)
        loss, weight = self.loss(logits, target), self.loss.weight(target)
        self.train_loss.add(loss, weight)
        if self.trainer.is_last_batch:
            self.log("train_loss", self.train_loss.compute_and_reset(), on_step=False, on_epoch=True, batch_size=1)
        return self.weighted(loss, weight)

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        """The step of the optimizer, and what the backbone does with its weights after one."""
        super().optimizer_step(*args, **named)
        rates = {group["part"]: group["lr"] for group in self.trainer.optimizers[0].param_groups}
        lr = rates.get(SUMMARIES, rates.get("backbone"))
        if lr is not None:
            self.backbone.after_step(lr)

    def validation_step(self, batch: Batch | PooledBatch, batch_index: int) -> None:
        """Add a batch to the metrics; only trees wait for the host. Unlabelled stays pad the batches of processes."""
        logits = self.predicted(batch)
        target = _target(batch)
        self.val_predictions.update(logits, target)
        self.finite.update(logits, batch_index)
        self.val_loss.add(*self.loss.with_weight(logits, target))

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split. A logit that is not finite stops the run before they are computed."""
        self.finite.check_and_reset(self.watched)
        metrics = self.val_predictions.metrics()
        self.val_predictions.reset()
        self.log_dict({"val_loss": self.val_loss.compute_and_reset()} | {f"val_{k}": v for k, v in metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over named groups; all groups exist from the start, a frozen backbone has none."""
        groups = parameter_groups("head", self.head, self.learning_rates.cls_head_lr, self.weight_decay)
        return adamw(groups + backbone_groups(self.backbone, self.tuning, self.learning_rates, self.weight_decay))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save ordinary weights, with the matrices of LoRA merged into them."""
        if self.variables is not None:
            checkpoint[VARIABLES] = record_of(self.variables)
        state = checkpoint["state_dict"]
        if adapters(state):
            checkpoint |= {"state_dict": merged_state(state, self.tuning.lora_alpha), LORA: adapters(state)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Undo `on_save_checkpoint`, so that Lightning can resume."""
        if LORA in checkpoint:
            checkpoint["state_dict"] = with_adapters(checkpoint["state_dict"], checkpoint[LORA])


def _target(batch: Batch | PooledBatch) -> torch.Tensor:
    """What the loss compares with: labels [N], or the targets of another task [N, K]."""
    return batch.label if batch.target is None else batch.target


class SeqSetVAEPretrainer(LargeBatchGradient):
    """Trains a backbone without labels; its checkpoints have the layout of the old pretraining script."""

    model: Any
    objective: Any
    embeddings: torch.Tensor

    def __init__(
        self,
        model: Any,
        objective: Any,
        lr: float,
        weight_decay: float,
        embeddings: torch.Tensor,
        variables: Variables | None = None,
        transform: ValueTransform = PLAIN,
        profile: Profile | None = None,
    ) -> None:
        """A pretrainer.

        Args:
            model: the backbone with the objective's extra weights (`build_model` of the objective).
            objective: the terms of its loss (`build_loss`).
            lr, weight_decay: of AdamW.
            embeddings: [V, I], as for the fine-tuner.
            variables, transform, profile: what variables, values and stays were, recorded in every checkpoint.
        """
        super().__init__()
        self.save_hyperparameters({**model.sizes.as_dict(), "lr": lr, **objective.hyper_parameters()})
        self.model, self.objective, self.lr, self.weight_decay = model, objective, lr, weight_decay
        self.variables, self.transform, self.profile = variables, transform, profile
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.train_loss, self.train_terms = RunningMean(), RunningMean()
        self.finite = FiniteCheck()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """The objective's loss, a mean over the sets of the batch."""
        terms = self.objective.training_terms(self.model, batch, self.embeddings, self.global_step)
        loss = terms["loss"]
        self.train_loss.add(loss, batch.n_sets)
        self.train_terms.add(torch.stack([term.detach() for term in terms.values()]), batch.n_sets)
        if self.trainer.is_last_batch:
            means = zip(terms, self.train_terms.compute_and_reset().reshape(-1), strict=True)  # one alone is a scalar
            logged = {f"train_{name}": value for name, value in means}
            logged["train_loss"] = self.train_loss.compute_and_reset()
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=1)
        return self.weighted(loss, batch.n_sets)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Validation terms of a batch; an objective that draws random numbers draws the same in every validation."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(batch_index)
            terms = self.objective.validation_terms(self.model, batch, self.embeddings)
        self.finite.update(terms["loss"], batch_index)
        logged = {f"val_{name}": value for name, value in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=batch.n_sets, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """What the objective measures over the whole split, unless the loss is not finite."""
        self.finite.check_and_reset("val_loss")
        self.log_dict(self.objective.end_of_validation(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the weights that the loss never reaches have no gradient and are in no group."""
        own = self.model.own_rates(self.lr, pretraining=True)
        apart = [value for part, _ in own.values() for value in part.parameters()]
        groups = parameter_groups("model", self.model, self.lr, self.weight_decay, apart)
        for name, (part, rate) in own.items():
            groups += parameter_groups(name, part, rate, self.weight_decay)
        return adamw(groups + parameter_groups("objective", self.objective, self.lr, self.weight_decay))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save under the keys of the old pretraining script."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.removeprefix("model."): value for name, value in state.items()}
        checkpoint[ARCHITECTURE] = self.model.architecture
        if self.variables is not None:
            checkpoint[VARIABLES] = record_of(self.variables)
        checkpoint[VALUE_TRANSFORM] = self.transform.as_plain()
        if self.profile is not None:
            checkpoint[PROFILE] = self.profile.as_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Undo `on_save_checkpoint`, so that Lightning can resume."""
        own = {f"objective.{name}" for name in self.objective.state_dict()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name if name in own else f"model.{name}": value for name, value in state.items()}
