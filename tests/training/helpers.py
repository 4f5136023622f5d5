"""A fine-tuner whose val_auc follows a script and that records its run."""

from pathlib import Path
from typing import Any

import torch

from data import CohortDataModule
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.batch import Batch
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.cohort import Cohort
from seqsetvae.runs.finetune import METRICS, PRINTED
from seqsetvae.settings.groups import FinetuningRates, FinetuningSchedule, HeadSettings, LossSettings
from seqsetvae.settings.tuning import TuningSettings
from seqsetvae.tasks.model import Loss
from seqsetvae.training.callbacks import MetricsTable
from seqsetvae.training.feature_cache import CachedFeatures, cached_features
from seqsetvae.training.precision import Precision
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.schedule import VAL_AUC
from seqsetvae.training.stages import Run, finetune_in_stages
from tests import tiny

HEAD_LR, BACKBONE_LR = 1e-3, 1e-4
LOSS = LossSettings(loss="cross_entropy", class_weight="none", label_smoothing=0.0, focal_gamma=2.0, focal_alpha=None)
CPU = Precision(device=torch.device("cpu"))


def fine_tuner(
    cohort: Cohort,
    kind: type[SeqSetVAEFineTuner] = SeqSetVAEFineTuner,
    dropout: float = 0.1,
    tuning: TuningSettings = TuningSettings(),  # noqa: B008  (frozen)
    **sizes: Any,
) -> Any:
    """A module around a tiny backbone."""
    return kind(
        tiny.tiny_backbone(**sizes),
        HeadSettings(head_pooling="last_mean", head_hidden=8, head_dropout=dropout),
        Loss(LOSS),
        FinetuningRates(cls_head_lr=HEAD_LR, lr=BACKBONE_LR),
        0.01,
        torch.from_numpy(cohort.embeddings.copy()).float(),
        TrainedOn(variables=cohort.variables, label_name=cohort.label_name, max_sets=None),
        tuning=tuning,
    )


class Scripted(SeqSetVAEFineTuner):
    """Logs the values of `script`, one per validation, as val_auc; records rates, modes and weights."""

    script: list[float]

    def start(self, script: list[float]) -> None:
        self.script, self.validations = script, 0
        self.rates: list[tuple[int, dict[str, float]]] = []  # (stage, rate of each part) at every optimizer step
        self.modes: list[tuple[int, bool, bool]] = []  # (stage, is the backbone in training mode, is the head) a batch
        self.batches: list[list[int]] = []  # the stays of every training batch
        self.weights: list[dict[str, torch.Tensor]] = []  # at every validation
        self.starts: list[dict[str, torch.Tensor]] = []  # at the start of every fit

    @property
    def stage(self) -> int:
        return 1 if self.frozen else 2

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}

    def on_fit_start(self) -> None:
        self.starts.append(self._copy())

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        self.batches.append(batch.stay_id.tolist())
        self.modes.append((self.stage, self.backbone.transformer.training, self.head.training))
        return super().training_step(batch, batch_index)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.rates.append((self.stage, {group["part"]: group["lr"] for group in optimizer.param_groups}))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        assert not self.backbone.training
        assert not self.head.training
        values = {"val_auc": self.script[self.validations], "val_auprc": 0.5, "val_loss": 1.0}
        self.log_dict(values, on_epoch=True, batch_size=batch.n_stays)

    def on_validation_epoch_end(self) -> None:
        self.weights.append(self._copy())
        self.validations += 1


def run_stages(module: SeqSetVAEFineTuner, cohort: Cohort, folder: Path, **options: Any) -> Run:
    """Fine-tune through both stages on the CPU."""
    run = make_run(module, cohort, folder, **options)
    finetune_in_stages(run, module, lambda: features_of(module, run), compile_model=False)
    return run


def features_of(module: SeqSetVAEFineTuner, run: Run) -> CachedFeatures:
    """Features of the module's frozen backbone for the run's stays, cached beside the run's folder."""
    return cached_features(module, run.data, CPU, run.folder.path.parent / "features")


def make_run(module: SeqSetVAEFineTuner, cohort: Cohort, folder: Path, **options: Any) -> Run:
    """A run on the CPU, not yet started."""
    schedule = {"max_epochs": 5, "unfreeze_after": 2, "warmup_steps": 0, "min_lr": 1e-6, "es_patience": 3}
    plateau = {"lr_factor": 0.5, "lr_patience": 1}
    accumulate = options.pop("accumulate", 1)
    trainer_options = {"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0}
    run_folder = RunFolder.create(folder, "test")
    return Run(
        module=module,
        data=CohortDataModule(cohort, batch_size=16, max_events=10**6),
        folder=run_folder,
        table=MetricsTable(run_folder.path / "metrics.csv", run_folder.path / "tensorboard"),
        watched=VAL_AUC,
        schedule=FinetuningSchedule(**(schedule | plateau | options)),
        metrics=METRICS,
        printed=PRINTED,
        parts=module.parts,
        trainer_options=trainer_options | {"accumulate_grad_batches": accumulate},
    )


def scripted_run(
    cohort: Cohort,
    folder: Path,
    script: list[float],
    tuning: TuningSettings = TuningSettings(),  # noqa: B008  (frozen)
    **options: Any,
) -> tuple[Scripted, Run]:
    """A run in which validation n gives script[n]."""
    module: Scripted = fine_tuner(cohort, Scripted, tuning=tuning)
    module.start(script)
    return module, run_stages(module, cohort, folder, **options)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, with weights_only and no allow-list at all."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        return torch.load(path, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)
