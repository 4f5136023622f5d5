"""Pretrain: train the checkpoint that fine-tuning needs, or continue training one."""

from __future__ import annotations

import pytorch_lightning as pl

from model_optimized import SeqSetVAEPretrainer
from seqsetvae.architectures.seqsetvae.backbone import BackboneSizes
from seqsetvae.architectures.seqsetvae.decoder import PretrainingModel
from seqsetvae.checkpoint import Checkpoint, LoadReport
from seqsetvae.losses import ObjectiveSettings
from seqsetvae.modes.common import (
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
from seqsetvae.settings import Settings
from seqsetvae.training.precision import prepare_device
from seqsetvae.training.schedule import VAL_LOSS
from seqsetvae.training.summary import Summary, partial_weights_advice, pretraining_advice

METRICS = (
    "train_loss",
    "train_recon",
    "train_kl",
    "val_loss",
    "val_recon",
    "val_kl",
    "val_active_units",
    "val_kl_per_dim",
    "beta",
)
PRINTED = ("train_loss", "val_loss", "val_recon", "val_kl", "val_active_units")  # the others are in metrics.csv


def run(settings: Settings) -> Summary:
    """Pretrain on --data_dir, with or without labels, from random weights or from --pretrained_ckpt with its sizes."""
    device = prepare_device(settings)
    pl.seed_everything(settings.seed, verbose=False)
    width = check_data(settings, "train", "valid", labelled=False)
    model, checkpoint, report = build_model(settings, width)
    cohort = open_data(settings)
    cohort.split("train"), cohort.split("valid")
    if checkpoint is not None:
        check_embeddings(cohort, model.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    transform = value_transform(settings, checkpoint, cohort)
    data = data_module(settings, cohort, device, transform, labelled=False)
    objective = ObjectiveSettings(
        max_beta=settings.max_beta, beta_warmup_steps=settings.beta_warmup_steps, free_bits=settings.free_bits
    )
    module = SeqSetVAEPretrainer(
        model,
        objective,
        settings.pretrain_lr,
        settings.weight_decay,
        embedding_table(cohort, settings),
        cohort.fingerprints(),
        transform,
    )
    if settings.compile_model:
        model.compile_dense_parts()
    run = start_run(
        settings,
        module,
        data,
        device,
        model.sizes,
        report,
        watched=VAL_LOSS,
        metrics=METRICS,
        printed=PRINTED,
        parts=("model",),
    )
    return train_and_summarize(
        run,
        device,
        lambda: run.fit(1, settings.max_epochs, warm_up=True, decay=True),
        lambda rows: (
            partial_weights_advice(report)
            + pretraining_advice(rows, model.sizes.latent_dim, objective, cohort.split("train"), cohort.vocabulary)
        ),
    )


def build_model(settings: Settings, width: int) -> tuple[PretrainingModel, Checkpoint | None, LoadReport | None]:
    """A new model of the settings' sizes, or the model of --pretrained_ckpt, each with its decoder.

    `width` is that of the data's variable embeddings.
    """
    if settings.pretrained_ckpt is None:
        return PretrainingModel(BackboneSizes(input_dim=width, **settings.sizes())), None, None
    return load_pretrained(settings, PretrainingModel, width)
