"""Fine-tune: a two-layer head on a backbone that is first frozen, then unfrozen; monitors val_auc."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqsetvae.architectures.settings import ArchitectureSettings
from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    DataSettings,
    FinetuningRates,
    FinetuningSchedule,
    HeadSettings,
    LoaderSettings,
    LossSettings,
    OptimizerSettings,
    PretrainedSettings,
    RunSettings,
    ValueSettings,
    min_lr_problems,
)
from seqsetvae.settings.kinds import BOOLEAN

if TYPE_CHECKING:  # they import torch, and --help must not wait for it
    from model_optimized import SeqSetVAEFineTuner
    from seqsetvae.checkpoint import LoadReport
    from seqsetvae.cohort import Cohort
    from seqsetvae.cohort.transform import ValueTransform
    from seqsetvae.training.summary import Summary

HELP = "train a classifier on a pretrained checkpoint"
NEEDS = ("data_dir",)
METRICS = ("train_loss", "val_loss", "val_auc", "val_auprc")
PRINTED = ("stage", *METRICS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What fine-tuning reads."""

    from_random_weights: bool = argument(
        BOOLEAN,
        "finetune: train a randomly initialized backbone instead of --pretrained_ckpt, as a baseline; needs "
        "--unfreeze_after 0",
        default=False,
    )
    pretrained: PretrainedSettings
    data: DataSettings
    values: ValueSettings
    loader: LoaderSettings
    architecture: ArchitectureSettings
    head: HeadSettings
    loss: LossSettings
    rates: FinetuningRates
    optimizer: OptimizerSettings
    schedule: FinetuningSchedule
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """Rules of fine-tuning."""
    pretrained, after = settings.pretrained, settings.schedule.unfreeze_after
    random, size = settings.from_random_weights, settings.loader.batch_size
    rules = [
        (
            not random and pretrained.pretrained_ckpt is None,
            "pretrained_ckpt: not given; --mode finetune needs --pretrained_ckpt (or --from_random_weights, to train "
            "without a pretrained checkpoint as a baseline)",
        ),
        (
            random and (pretrained.pretrained_ckpt is not None or pretrained.allow_partial_backbone),
            "from_random_weights: received together with pretrained_ckpt or allow_partial_backbone; it does not read a "
            "checkpoint, so leave out either it or the other two",
        ),
        (
            random and after != 0,
            f"unfreeze_after: received {after}; allowed: 0 with --from_random_weights, because a randomly initialized "
            "backbone must be trained from the start",
        ),
        (size < 4, f"batch_size: received {size}; allowed: 4 or more for fine-tuning"),
    ]
    found = [problem for wrong, problem in rules if wrong] + min_lr_problems(settings.schedule, settings.rates)
    return found + (settings.architecture.problems_of_new_model() if random else [])


def run(settings: Settings) -> Summary:
    """Fine-tune --pretrained_ckpt, or an untrained backbone with --from_random_weights, on --data_dir.

    Everything is checked before the run folder is created, and what is quick to check before anything else.
    """
    import pytorch_lightning as pl

    from seqsetvae.evaluation.report import report_finished_run
    from seqsetvae.loading import data_module
    from seqsetvae.training.feature_cache import FEATURE_CACHE, CachedFeatures, cached_features
    from seqsetvae.training.precision import Precision, prepare_device
    from seqsetvae.training.schedule import VAL_AUC
    from seqsetvae.training.stages import finetune_in_stages
    from seqsetvae.training.start import start_run, train_and_summarize
    from seqsetvae.training.summary import finetuning_advice, random_weights_advice

    device = prepare_device(settings.run)
    pl.seed_everything(settings.run.seed, verbose=False)
    cohort, backbone, transform, report = cohort_and_backbone(settings)
    warn_of_rates(settings)
    data = data_module(cohort, transform, settings.data, settings.loader, settings.run, device)
    module = build(settings, backbone, cohort, transform)
    run = start_run(
        "finetune",
        settings,
        module,
        data,
        device,
        backbone.sizes,
        report,
        watched=VAL_AUC,
        metrics=METRICS,
        printed=PRINTED,
        parts=("head", "backbone"),
    )

    def compute_features() -> CachedFeatures:
        precision = Precision.of(settings.run, device)
        return cached_features(module, data, precision, settings.run.output_root_dir / FEATURE_CACHE)

    summary = train_and_summarize(
        run,
        device,
        lambda: finetune_in_stages(run, module, compute_features, settings.run.compile_model),
        lambda rows: random_weights_advice(report) + finetuning_advice(rows, VAL_AUC, cohort.split("valid")),
    )
    report_finished_run(run.folder.path)
    return summary


def cohort_and_backbone(settings: Settings) -> tuple[Cohort, Any, ValueTransform, LoadReport | None]:
    """The data and the backbone, checked against each other, how values are read, and what was loaded.

    Cheap checks of the data come first, then the checkpoint, then the data themselves, which may have to be compiled.
    """
    from seqsetvae.cohort.open import check_data, open_data
    from seqsetvae.loading import require_both_classes
    from seqsetvae.trained_on import check_embeddings, new_transform, value_transform
    from seqsetvae.training.pretrained import load_pretrained

    width = check_data(settings.data, "train", "valid")
    loaded = None
    if not settings.from_random_weights:
        loaded = load_pretrained(settings.pretrained, settings.architecture, settings.data, width, settings.values)
    cohort = open_data(settings.data, settings.run.output_root_dir)
    require_both_classes(cohort, "train", "valid")
    if loaded is None:
        return cohort, untrained(settings, cohort), new_transform(settings.values, cohort), None
    backbone, checkpoint, report = loaded
    check_embeddings(cohort, backbone.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    return cohort, backbone, value_transform(checkpoint, cohort), report


def warn_of_rates(settings: Settings) -> None:
    """The head is new and the backbone is pretrained, so the backbone's rate should be the lower one."""
    rates = settings.rates
    if settings.schedule.unfreeze_after is not None and rates.lr >= rates.cls_head_lr:
        print(
            f"⚠️  lr ({rates.lr:g}, backbone) should be well below cls_head_lr ({rates.cls_head_lr:g}, head): the "
            "head is new, the backbone is pretrained"
        )


def untrained(settings: Settings, cohort: Cohort) -> Any:
    """A backbone of the settings' architecture and sizes with random weights; prints a warning."""
    from seqsetvae.architectures import ARCHITECTURES

    print("⚠️  RANDOM BACKBONE: all weights are randomly initialized (--from_random_weights)")
    architecture = ARCHITECTURES[settings.architecture.architecture]
    sizes = architecture.Sizes(input_dim=cohort.embeddings.shape[1], **settings.architecture.sizes())
    return architecture.build(sizes)


def build(settings: Settings, backbone: Any, cohort: Cohort, transform: ValueTransform) -> SeqSetVAEFineTuner:
    """The module of these settings around a loaded backbone."""
    from model_optimized import SeqSetVAEFineTuner
    from seqsetvae import head, losses, optimizer
    from seqsetvae.checkpoint import TrainedOn
    from seqsetvae.loading import embedding_table

    return SeqSetVAEFineTuner(
        backbone,
        head.HeadSettings(
            pooling=settings.head.head_pooling, hidden=settings.head.head_hidden, dropout=settings.head.head_dropout
        ),
        losses.LossSettings(
            name=settings.loss.loss,
            positive_weight=positive_weight(settings.loss.class_weight, cohort),
            label_smoothing=settings.loss.label_smoothing,
            focal_gamma=settings.loss.focal_gamma,
            focal_alpha=settings.loss.focal_alpha,
        ),
        optimizer.OptimizerSettings(
            head_lr=settings.rates.cls_head_lr,
            backbone_lr=settings.rates.lr,
            weight_decay=settings.optimizer.weight_decay,
        ),
        embedding_table(cohort, settings.run),
        TrainedOn(
            fingerprints=cohort.fingerprints(),
            label_name=cohort.label_name,
            max_sets=settings.data.max_sets,
            transform=transform,
        ),
    )


def positive_weight(class_weight: str | float, cohort: Cohort) -> float:
    """Weight of a positive stay: 1, a number, or negatives / positives of the training split."""
    if isinstance(class_weight, float):
        return class_weight
    label = cohort.split("train").label
    return float((label == 0).sum() / (label == 1).sum()) if class_weight == "balanced" else 1.0
