"""Pretrain: train the checkpoint that fine-tuning needs, or continue training one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from model_optimized import SeqSetVAEPretrainer
from seqsetvae.batches.loading import CohortDataModule, data_module
from seqsetvae.batches.transform import ValueTransform
from seqsetvae.batches.variables import variable_table
from seqsetvae.checkpoint.backbone import LoadReport
from seqsetvae.checkpoint.data import check_variables, new_transform, value_transform
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.open import check_data, open_data
from seqsetvae.cohort.profile import Profile
from seqsetvae.modes.pretrain import Settings
from seqsetvae.objectives import OBJECTIVES
from seqsetvae.settings.declare import as_plain
from seqsetvae.system.processes import first_process_first, leave
from seqsetvae.training.precision import prepare_device
from seqsetvae.training.pretrained import load_pretrained
from seqsetvae.training.resume import is_finished
from seqsetvae.training.run_state import Row
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
    prepare_device(settings.run)
    pl.seed_everything(settings.run.seed, verbose=False)
    return train(settings, *cohort_and_model(settings), resume=resume)


def train(
    settings: Settings,
    cohort: Cohort,
    model: Any,
    transform: ValueTransform,
    report: LoadReport | None,
    resume: Path | None = None,
) -> Summary:
    """Pretrain a model on a cohort; `report` is that of the checkpoint it was loaded from, None for a new one."""
    device, objective = prepare_device(settings.run), OBJECTIVES[settings.objective.objective]
    module, data = module_and_data(settings, cohort, model, transform, device, is_new=report is None)
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
        leave()

    return train_and_summarize(
        run,
        device,
        pretrain,
        lambda rows: advice(settings, model.sizes, report, rows[-1], cohort),
    )


def module_and_data(
    settings: Settings, cohort: Cohort, model: Any, transform: ValueTransform, device: torch.device, *, is_new: bool
) -> tuple[SeqSetVAEPretrainer, CohortDataModule]:
    """The module and its loaders; a new model is first fitted to the training stays."""
    data = data_module(cohort, transform, settings.data, settings.loader, settings.run, device, labelled=False)
    if is_new:
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
        transform,
        Profile.of(cohort),
    )
    return module, data


def cohort_and_model(settings: Settings) -> tuple[Cohort, Any, ValueTransform, LoadReport | None]:
    """The data and the model with the objective's extra weights, checked against each other, how values are read, and
    what was loaded.

    Cheap checks of the data come first, then the checkpoint, then the data themselves, which may have to be compiled.
    """
    width = check_data(settings.data, "train", "valid", labelled=False)
    build, chosen = OBJECTIVES[settings.objective.objective].build_model, settings.architecture
    loaded = None
    if settings.pretrained.pretrained_ckpt is not None:
        loaded = load_pretrained(settings.pretrained, chosen, settings.data, width, settings.values, build)
    with first_process_first():
        own = None if loaded is None else loaded[1].variables
        cohort = open_data(settings.data, settings.run.output_root_dir, own=own)
    cohort.split("train"), cohort.split("valid")
    if loaded is None:
        return cohort, new_model(settings, cohort), new_transform(chosen, settings.values, cohort), None
    model, checkpoint, report = loaded
    check_variables(cohort, model.sizes.input_dim, checkpoint, checkpoint.path)
    return cohort, model, value_transform(checkpoint, cohort), report


def new_model(settings: Settings, cohort: Cohort) -> Any:
    """A model with random weights for the variables of a cohort, with the objective's extra weights."""
    sizes = settings.architecture.new_sizes(cohort.variables.width, cohort.vocabulary)
    return OBJECTIVES[settings.objective.objective].build_model(settings.architecture.architecture, sizes)


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
