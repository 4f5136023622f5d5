"""Pretrain: train the checkpoint that fine-tuning needs, or continue training one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqsetvae.architectures.settings import ArchitectureSettings
from seqsetvae.objectives.settings import ObjectiveSettings
from seqsetvae.settings.groups import (
    DataSettings,
    LoaderSettings,
    OptimizerSettings,
    PretrainedSettings,
    PretrainingRate,
    RunSettings,
    ScheduleSettings,
    ValueSettings,
    min_lr_problems,
)

if TYPE_CHECKING:  # they import torch, and --help must not wait for it
    from seqsetvae.checkpoint import Checkpoint, LoadReport
    from seqsetvae.cohort import Cohort
    from seqsetvae.cohort.transform import ValueTransform
    from seqsetvae.training.run_state import Row
    from seqsetvae.training.summary import Summary

HELP = "train a backbone without labels"
NEEDS = ("data_dir",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What pretraining reads."""

    pretrained: PretrainedSettings
    data: DataSettings
    values: ValueSettings
    loader: LoaderSettings
    architecture: ArchitectureSettings
    objective: ObjectiveSettings
    rate: PretrainingRate
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """Rules of pretraining."""
    is_new = settings.pretrained.pretrained_ckpt is None
    found = settings.architecture.problems_of_new_model(settings.values.value_transform) if is_new else []
    return found + min_lr_problems(settings.schedule, settings.rate)


def run(settings: Settings) -> Summary:
    """Pretrain on --data_dir, with or without labels, from random weights or from --pretrained_ckpt with its sizes."""
    import pytorch_lightning as pl

    from model_optimized import SeqSetVAEPretrainer
    from seqsetvae.loading import data_module
    from seqsetvae.objectives import OBJECTIVES
    from seqsetvae.training.precision import prepare_device
    from seqsetvae.training.schedule import Watched
    from seqsetvae.training.start import start_run, train_and_summarize
    from seqsetvae.variables import embedding_table

    device = prepare_device(settings.run)
    pl.seed_everything(settings.run.seed, verbose=False)
    objective = OBJECTIVES[settings.objective.objective]
    cohort, model, transform, report = cohort_and_model(settings)
    data = data_module(cohort, transform, settings.data, settings.loader, settings.run, device, labelled=False)
    module = SeqSetVAEPretrainer(
        model,
        objective.build_loss(settings.objective.settings(), model.sizes),
        settings.rate.pretrain_lr,
        settings.optimizer.weight_decay,
        embedding_table(cohort, settings.run),
        cohort.fingerprints(),
        transform,
    )
    if settings.run.compile_model:
        model.compile_dense_parts()
    run = start_run(
        "pretrain",
        settings,
        module,
        data,
        device,
        model.sizes,
        report,
        watched=Watched(*objective.WATCHED),
        metrics=objective.METRICS,
        printed=objective.PRINTED,
        parts=("model",),
    )
    return train_and_summarize(
        run,
        device,
        lambda: run.fit(1, settings.schedule.max_epochs, warm_up=True),
        lambda rows: advice(settings, model.sizes, report, rows[-1], cohort),
    )


def cohort_and_model(settings: Settings) -> tuple[Cohort, Any, ValueTransform, LoadReport | None]:
    """The data and the model with the objective's extra weights, checked against each other, how values are read, and
    what was loaded.

    Cheap checks of the data come first, then the checkpoint, then the data themselves, which may have to be compiled.
    """
    from seqsetvae.cohort.open import check_data, open_data
    from seqsetvae.trained_on import check_embeddings, new_transform, value_transform

    width = check_data(settings.data, "train", "valid", labelled=False)
    model, checkpoint, report = build_model(settings, width)
    cohort = open_data(settings.data, settings.run.output_root_dir)
    cohort.split("train"), cohort.split("valid")
    if checkpoint is None:
        return cohort, model, new_transform(settings.architecture, settings.values, cohort), None
    check_embeddings(cohort, model.sizes.input_dim, checkpoint.fingerprints, checkpoint.path)
    return cohort, model, value_transform(checkpoint, cohort), report


def build_model(settings: Settings, width: int) -> tuple[Any, Checkpoint | None, LoadReport | None]:
    """A new model of the settings' sizes, or the model of --pretrained_ckpt, each with the objective's extra weights.

    `width` is that of the data's variable embeddings.
    """
    from seqsetvae.architectures import ARCHITECTURES
    from seqsetvae.objectives import OBJECTIVES
    from seqsetvae.training.pretrained import load_pretrained

    build, chosen = OBJECTIVES[settings.objective.objective].build_model, settings.architecture
    if settings.pretrained.pretrained_ckpt is None:
        sizes = ARCHITECTURES[chosen.architecture].Sizes(input_dim=width, **chosen.sizes())
        return build(chosen.architecture, sizes), None, None
    return load_pretrained(settings.pretrained, chosen, settings.data, width, settings.values, build)


def advice(settings: Settings, sizes: Any, report: LoadReport | None, last: Row, cohort: Cohort) -> list[str]:
    """Warnings about weights that were not loaded, and those of the objective."""
    from seqsetvae.objectives import OBJECTIVES
    from seqsetvae.training.summary import partial_weights_advice

    return partial_weights_advice(report) + OBJECTIVES[settings.objective.objective].advice(
        settings.objective.settings(),
        sizes,
        last.metrics,
        last.step,
        last.epoch,
        cohort.split("train"),
        cohort.vocabulary,
    )
