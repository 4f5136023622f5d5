"""Fine-tune: a two-layer head on a backbone that is first frozen, then unfrozen; monitors val_auc."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.architectures.seqsetvae.backbone import Backbone, BackboneSizes
from seqsetvae.checkpoint import TrainedOn
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.transform import ValueTransform
from seqsetvae.head import HeadSettings
from seqsetvae.loading import require_both_classes
from seqsetvae.losses import LossSettings
from seqsetvae.modes.common import (
    FEATURE_CACHE,
    check_data,
    check_embeddings,
    data_module,
    embedding_table,
    load_pretrained,
    open_data,
    start_run,
    train_and_summarize,
)
from seqsetvae.modes.values import value_transform
from seqsetvae.optimizer import OptimizerSettings
from seqsetvae.settings import Settings
from seqsetvae.training.feature_cache import CachedFeatures, cached_features
from seqsetvae.training.precision import Precision, prepare_device
from seqsetvae.training.schedule import VAL_AUC
from seqsetvae.training.stages import finetune_in_stages
from seqsetvae.training.summary import Summary, finetuning_advice, random_weights_advice

METRICS = ("train_loss", "val_loss", "val_auc", "val_auprc")
PRINTED = ("stage", *METRICS)


def run(settings: Settings) -> Summary:
    """Fine-tune --pretrained_ckpt, or an untrained backbone with --from_random_weights, on --data_dir.

    Everything is checked before the run folder is created, and what is quick to check before anything else.
    """
    device = prepare_device(settings)
    pl.seed_everything(settings.seed, verbose=False)
    width = check_data(settings, "train", "valid")
    loaded = None if settings.from_random_weights else load_pretrained(settings, Backbone, width)
    cohort = open_data(settings)
    require_both_classes(cohort, "train", "valid")
    if loaded is None:
        backbone, report = untrained(settings, cohort), None
        transform = value_transform(settings, None, cohort)
    else:
        backbone, checkpoint, report = loaded
        check_embeddings(cohort, backbone.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
        transform = value_transform(settings, checkpoint, cohort)
    if settings.unfreeze_after is not None and settings.lr >= settings.cls_head_lr:
        print(
            f"⚠️  lr ({settings.lr:g}, backbone) should be well below cls_head_lr ({settings.cls_head_lr:g}, head): the "
            "head is new, the backbone is pretrained"
        )
    data = data_module(settings, cohort, device, transform)
    module = build(settings, backbone, cohort, transform)
    run = start_run(
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
        return cached_features(module, data, Precision.of(settings, device), settings.output_root_dir / FEATURE_CACHE)

    return train_and_summarize(
        run,
        device,
        lambda: finetune_in_stages(run, module, compute_features, settings.compile_model),
        lambda rows: random_weights_advice(report) + finetuning_advice(rows, VAL_AUC, cohort.split("valid")),
    )


def untrained(settings: Settings, cohort: Cohort) -> Backbone:
    """A backbone of the settings' sizes with random weights; prints a warning."""
    print("⚠️  RANDOM BACKBONE: all weights are randomly initialized (--from_random_weights)")
    return Backbone(BackboneSizes(input_dim=cohort.embeddings.shape[1], **settings.sizes()))


def build(settings: Settings, backbone: Backbone, cohort: Cohort, transform: ValueTransform) -> SeqSetVAEFineTuner:
    """The module of these settings around a loaded backbone."""
    head = HeadSettings(pooling=settings.head_pooling, hidden=settings.head_hidden, dropout=settings.head_dropout)
    loss = LossSettings(
        name=settings.loss,
        positive_weight=positive_weight(settings.class_weight, cohort),
        label_smoothing=settings.label_smoothing,
        focal_gamma=settings.focal_gamma,
        focal_alpha=settings.focal_alpha,
    )
    rates = OptimizerSettings(head_lr=settings.cls_head_lr, backbone_lr=settings.lr, weight_decay=settings.weight_decay)
    trained_on = TrainedOn(
        fingerprints=cohort.fingerprints(),
        label_name=cohort.label_name,
        max_sets=settings.max_sets,
        transform=transform,
    )
    return SeqSetVAEFineTuner(backbone, head, loss, rates, embedding_table(cohort, settings), trained_on)


def positive_weight(class_weight: str | float, cohort: Cohort) -> float:
    """Weight of a positive stay: 1, a number, or negatives / positives of the training split."""
    if isinstance(class_weight, float):
        return class_weight
    label = cohort.split("train").label
    return float(np.sum(label == 0) / np.sum(label == 1)) if class_weight == "balanced" else 1.0
