"""Pretrain: train the checkpoint that fine-tuning needs, or continue training one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from model_optimized import SeqSetVAEPretrainer
from seqsetvae.batches.loading import CohortDataModule, data_module
from seqsetvae.batches.transform import ValueTransform
from seqsetvae.batches.variables import variable_table
from seqsetvae.checkpoint.backbone import Loaded, LoadReport
from seqsetvae.cli.pretrain import Settings
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.profile import Profile
from seqsetvae.objectives import OBJECTIVES
from seqsetvae.runs.opening import Opened, load_pretrained, new_transform, open_run
from seqsetvae.settings.declare import as_plain
from seqsetvae.system.processes import finish_distributed
from seqsetvae.training.resume import is_finished
from seqsetvae.training.run_folder import Row
from seqsetvae.training.schedule import Watched
from seqsetvae.training.start import start_run, train_and_summarize
from seqsetvae.training.summary import Summary, partial_weights_advice
from seqsetvae.training.table import fit_to_training_stays


def run(settings: Settings, resume: Path | None = None) -> Summary | None:
    """Pretrain on --data_dir, with or without labels, from random weights or from --pretrained_ckpt with its sizes.

    `resume` is the folder of a run with these settings to resume; None is returned if it is finished.
    """
    if resume is not None and is_finished(resume, {"mode": "pretrain", **as_plain(settings)}):
        return None
    pl.seed_everything(settings.run.seed, verbose=False)
    groups = settings.data, settings.loader, settings.run
    return train(settings, open_run(*groups, "train", "valid", **source_of(settings)), resume=resume)


def train(settings: Settings, opened: Opened, resume: Path | None = None) -> Summary:
    """Pretrain an open model on its cohort."""
    device, model, report = opened.device, opened.model, opened.report
    objective = OBJECTIVES[settings.objective.objective]
    module, data = module_and_data(settings, opened)
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
        resume=resume,
    )

    def pretrain() -> None:
        if not run.has_finished(1, settings.schedule.max_epochs):
            run.fit(1, settings.schedule.max_epochs, warm_up=True)
        finish_distributed()

    return train_and_summarize(
        run,
        device,
        pretrain,
        lambda rows: advice(settings, model.sizes, report, rows[-1], opened.cohort),
    )


def module_and_data(settings: Settings, opened: Opened) -> tuple[SeqSetVAEPretrainer, CohortDataModule]:
    """The module and its loaders; a new model is first fitted to the training stays."""
    cohort, model = opened.cohort, opened.model
    groups = settings.data, settings.loader, settings.run, opened.device
    data = data_module(cohort, opened.transform, *groups, labelled=False)
    if opened.loaded is None:
        fit_to_training_stays(model, data)
    variables = variable_table(model, cohort, settings.run)
    loss = OBJECTIVES[settings.objective.objective].build_loss(settings.objective.settings(), model.sizes)
    if hasattr(loss, "host_work"):
        for split, prepare in zip(("train", "valid"), loss.host_work(model, variables), strict=True):
            data = data.with_prepare(prepare, split)
    module = SeqSetVAEPretrainer(
        model,
        loss,
        settings.rate.pretrain_lr,
        settings.optimizer.weight_decay,
        variables,
        cohort.variables,
        opened.transform,
        Profile.from_cohort(cohort),
    )
    return module, data


def source_of(settings: Settings) -> dict[str, Any]:
    """Where the model, with the objective's extra weights, comes from: arguments of `open_run`."""
    chosen, values = settings.architecture, settings.values
    build = OBJECTIVES[settings.objective.objective].build_model

    def load(width: int) -> Loaded:
        return load_pretrained(settings.pretrained, chosen, settings.data, width, values, build)

    def new(cohort: Cohort) -> tuple[ValueTransform, Any]:
        sizes = chosen.new_sizes(cohort.variables.width, cohort.vocabulary)
        return new_transform(chosen, values, cohort), build(chosen.architecture, sizes)

    return {"new": new} if settings.pretrained.pretrained_ckpt is None else {"load": load}


def advice(settings: Settings, sizes: Any, report: LoadReport | None, last: Row, cohort: Cohort) -> list[str]:
    """Warnings about weights that were not loaded, and those of the objective."""
    return partial_weights_advice(report) + OBJECTIVES[settings.objective.objective].advice(
        settings.objective.settings(),
        sizes,
        last.metrics,
        last.step,
        last.epoch,
        cohort,
    )
