"""Fine-tune: a two-layer head on a backbone that is first frozen, then unfrozen; monitors val_auc."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from model_optimized import SeqSetVAEFineTuner
from seqsetvae import report as report_page
from seqsetvae.batches.loading import CohortDataModule, data_module
from seqsetvae.batches.transform import ValueTransform
from seqsetvae.batches.variables import variable_table, with_host_work
from seqsetvae.checkpoint.backbone import Loaded
from seqsetvae.checkpoint.file import read_file
from seqsetvae.checkpoint.record import TrainedOn
from seqsetvae.cli.finetune import Settings
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.profile import Profile, median_hours
from seqsetvae.evaluation.calibration import calibrate
from seqsetvae.evaluation.predictions import predict, predictions_of
from seqsetvae.models import ARCHITECTURES, variable_summaries
from seqsetvae.models.beside import VALUES, BesideSummaries
from seqsetvae.models.head import set_prior, weight_of_positives
from seqsetvae.models.members import Members
from seqsetvae.runs.opening import Opened, load_pretrained, new_transform, open_run
from seqsetvae.runs.out_of_fold import members_of_run, out_of_fold
from seqsetvae.settings.declare import as_plain, changed
from seqsetvae.settings.groups import DataSettings
from seqsetvae.settings.tuning import resolved
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.processes import finish_distributed
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.model import Loss
from seqsetvae.tasks.spec import BINARY, columns_of
from seqsetvae.tasks.targets import fit_targets, label_file, read_label_file, spec_of, without_label
from seqsetvae.training.feature_cache import FEATURE_CACHE, CachedFeatures, cached_features
from seqsetvae.training.finite import stays_in_a_file
from seqsetvae.training.optimizer import check_layers
from seqsetvae.training.precision import Precision
from seqsetvae.training.resume import is_finished
from seqsetvae.training.run_folder import best_row
from seqsetvae.training.schedule import Watched
from seqsetvae.training.stages import Run, finetune_in_stages
from seqsetvae.training.start import start_run, train_and_summarize
from seqsetvae.training.summary import Summary, finetuning_advice, partial_weights_advice, random_weights_advice
from seqsetvae.training.table import fit_members, fit_to_training_stays


def metrics_of(task: str) -> tuple[str, ...]:
    """Columns of metrics.csv that measure the model."""
    return "train_loss", "val_loss", *(f"val_{name}" for name in TASKS[task].METRICS)


METRICS = metrics_of(BINARY)
PRINTED = ("stage", *METRICS)


def run(settings: Settings, resume: Path | None = None) -> Summary | None:
    """Fine-tune --pretrained_ckpt, or an untrained backbone with --from_random_weights, on --data_dir.

    Everything is checked before the run folder is created, and what is quick to check before anything else. `resume` is
    the folder of a run with these settings to resume; None is returned if it is finished.
    """
    if resume is not None and is_finished(resume, {"mode": "finetune", **as_plain(settings)}):
        return None
    pl.seed_everything(settings.run.seed, verbose=False)
    data, add_labels = labels_of(settings)
    source, groups = source_of(settings), (data, settings.loader, settings.run)
    opened = open_run(*groups, "train", "valid", **source, labelled=add_labels is None, with_targets=add_labels)
    if resume is None:
        settings = for_stays(settings, opened.cohort)
    warn_of_rates(settings)
    return train(settings, opened, resume=resume, finish=report_page.report_finished_run)


def train(
    settings: Settings,
    opened: Opened,
    resume: Path | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Summary:
    """Fine-tune an open backbone on its cohort; `finish` is called with the run folder when all else is done."""
    settings = resolved(settings)
    say_recipe(settings, opened.model.sizes)
    device, report, task = opened.device, opened.report, settings.task.task
    watched = Watched(f"val_{TASKS[task].WATCHED}", "max", keep_last=settings.schedule.keep == "last")
    module, data = module_and_data(settings, opened, members_of_run(resume))
    run = start_run(
        "finetune",
        settings,
        module,
        data,
        device,
        opened.model.sizes,
        report,
        watched=watched,
        metrics=metrics_of(task),
        printed=("stage", *metrics_of(task)),
        parts=module.parts,
        resume=resume,
    )
    precision = Precision.from_settings(settings.run, device)

    @cache  # the calibration reads them once more
    def compute_features() -> CachedFeatures:
        return cached_features(module, data, precision, settings.run.output_root_dir / FEATURE_CACHE)

    def train_and_calibrate() -> None:
        with stays_in_a_file(run.folder):
            finetune_in_stages(run, module, compute_features, settings.run.compile_model)
        finish_distributed()
        if TASKS[task].Calibration is not None:
            with stays_in_a_file(run.folder):
                _calibrate_best(run, module, compute_features, precision)
        else:
            print(f"Predictions of --task {task} are not calibrated")

    return train_and_summarize(
        run,
        device,
        train_and_calibrate,
        lambda rows: (
            (random_weights_advice if is_pretrainable(settings) else partial_weights_advice)(report)
            + (finetuning_advice(rows, watched, opened.cohort.split("valid")) if task == BINARY else [])
        ),
        finish,
    )


def _calibrate_best(
    run: Run, module: Any, compute_features: Callable[[], CachedFeatures], precision: Precision
) -> None:
    """Write calibration.json for best.ckpt; afterwards the fine-tuner has its weights.

    A checkpoint of stage 1 has the frozen backbone, whose features are cached; for one of stage 2 the validation split
    is run through the backbone once more.
    """
    module.freeze_backbone()
    module.load_state_dict(read_file(run.folder.best)["state_dict"])
    module.to(precision.device).eval()
    is_frozen = best_row(list(run.state.rows), run.watched).stage == 1
    rows = compute_features().rows["valid"] if is_frozen else None
    loader = run.data.loader("valid", rows=rows)
    context = precision.context()
    predictions = predict(
        module.spec, lambda batch, _: module.predicted(batch), module.embeddings, loader, "valid", context
    )
    print(calibrate(run.folder.best, predictions_of(module.spec, run.data.cohort, "valid", *predictions)))


def say_recipe(settings: Settings, sizes: Any) -> None:
    """Print which settings have the values that the architecture recommends, and what else it could be.

    `sizes` are those of the backbone, which a checkpoint may bring.
    """
    name, used = settings.architecture.architecture, as_plain(settings)
    recipes = {name: getattr(ARCHITECTURES[name], "RECIPE", {})}
    recipes |= {f"--{each}": it for each, it in getattr(ARCHITECTURES[name], "RECIPES", {}).items() if used[each]}
    if settings.beside.summaries:
        recipes["--summaries"] = settings.beside.recipe(name).RECIPE
    for of, recipe in recipes.items():
        listed = ", ".join(f"{each} {value}" for each, value in recipe.items() if used.get(each) == value)
        if listed:
            print(f"Settings from the recipe of {of}: {listed}")
    if getattr(sizes, "running_statistics", False) and not used["running_statistics"]:
        print("The checkpoint has running statistics: --running_statistics brings their recipe (docs/experiments.md)")
    if "table" not in ARCHITECTURES[name].OFFERS and not settings.beside.summaries:
        print(
            "Summaries beside the backbone: none (--summaries false), so the numbers are those of earlier versions; "
            "--summaries predicts far better (docs/variable-summaries.md)"
        )


def module_and_data(
    settings: Settings, opened: Opened, members: Members | None = None
) -> tuple[SeqSetVAEFineTuner, CohortDataModule]:
    """The module and its loaders; a new backbone is fitted to the training stays before, and `members` unless given."""
    cohort, backbone, transform, is_new = opened.cohort, opened.model, opened.transform, opened.loaded is None
    has_summaries = settings.beside.summaries
    if has_summaries:
        sizes = variable_summaries.Sizes(input_dim=cohort.variables.width, vocabulary=cohort.vocabulary)
        backbone, is_new = BesideSummaries(backbone, sizes), True
    data = data_module(cohort, transform, settings.data, settings.loader, settings.run, opened.device)
    n_stays = labelled_stays(cohort)
    if is_new:
        fit_to_training_stays(backbone, data.with_transform(VALUES) if has_summaries else data)
    if backbone.has_no_input():
        raise InputError(
            f"{cohort.path}: the model has no input: in "
            + (f"its {n_stays:,} labelled training stays" if is_new else "what the checkpoint was pretrained on")
            + " no count, value or time of a variable differs between the stays. Use more stays or other variables."
        )
    variables = variable_table(backbone, cohort, settings.run)
    in_this_process = settings.loader.num_workers == 0  # a worker lives for one epoch and sees each stay once
    data = with_host_work(data, backbone, variables, again=in_this_process)
    if is_new:
        backbone.start_small(n_stays, data.loader("train"), variables)
    if members is None:
        members = fit_members(settings.trees, backbone, variables, data, lambda: out_of_fold(settings, cohort))
    return build(settings, backbone, variables, cohort, transform, members), data


def labelled_stays(cohort: Cohort) -> int:
    """Number of training stays that have a label."""
    return int((cohort.split("train").label >= 0).sum())


def for_stays(settings: Settings, cohort: Cohort) -> Settings:
    """The settings with the recipe's values for this number of labelled training stays; prints them."""
    chosen, n_stays = settings.beside.recipe(settings.architecture.architecture), labelled_stays(cohort)
    recipe_for = getattr(chosen, "recipe_for", None)
    advised: dict[str, Any] = {} if recipe_for is None else recipe_for(n_stays)
    if settings.trees.beside_network and settings.trees.average == "trees":
        advised["max_epochs"] = 1  # of a network that has no weight
    by_user, now = {**settings.loader.given, **settings.schedule.given}, as_plain(settings)
    free = {name for name in advised if name not in by_user and now[name] == chosen.RECIPE[name]}
    values = {name: advised[name] for name in free if advised[name] != now[name]}
    if values:
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        print(f"Settings for {n_stays:,} labelled training stays: {listed}")
    return changed(settings, **values)


def labels_of(settings: Settings) -> tuple[DataSettings, Callable[[Cohort], Cohort] | None]:
    """The settings of the data, and what gives a cohort the labels of the task; None: it has them already."""
    task, data = settings.task.task, settings.data
    if settings.task.label_in_cohort:
        return data, None
    labels = read_label_file(label_file(data), columns_of(data.label_name))
    print(f"Task: {task} ({TASKS[task].HELP}): {','.join(labels.names)}, from {labels.path}")
    return without_label(data), lambda cohort: fit_targets(cohort, labels, task)


def source_of(settings: Settings) -> dict[str, Any]:
    """Where the backbone comes from: arguments of `open_run`."""

    def load(width: int) -> Loaded:
        loaded = load_pretrained(settings.pretrained, settings.architecture, settings.data, width, settings.values)
        check_layers(settings.tuning, loaded.model)
        return loaded

    def new(cohort: Cohort) -> tuple[ValueTransform, Any]:
        return new_transform(settings.architecture, settings.values, cohort), untrained(settings, cohort)

    return {"new": new} if settings.from_random_weights else {"load": load}


def warn_of_rates(settings: Settings) -> None:
    """The head is new and the backbone is pretrained, so the backbone's rate should be the lower one."""
    rates = settings.rates
    trains_at_lr = resolved(settings).schedule.unfreeze_after is not None and settings.tuning.tuning != "lora"
    if trains_at_lr and rates.lr >= rates.cls_head_lr:
        warn(
            f"lr ({rates.lr:g}, backbone) should be well below cls_head_lr ({rates.cls_head_lr:g}, head): the "
            "head is new, the backbone is pretrained"
        )


def is_pretrainable(settings: Settings) -> bool:
    """Whether a pretrained backbone of this architecture could exist, so that a random one deserves a warning."""
    return "states" in ARCHITECTURES[settings.architecture.architecture].OFFERS


def untrained(settings: Settings, cohort: Cohort) -> Any:
    """A backbone of the settings' architecture and sizes with random weights; prints a warning where that is a loss."""
    if is_pretrainable(settings):
        warn("RANDOM BACKBONE: all weights are randomly initialized (--from_random_weights)")
    sizes = settings.architecture.new_sizes(cohort.variables.width, cohort.vocabulary)
    return ARCHITECTURES[settings.architecture.architecture].build(sizes)


def build(
    settings: Settings,
    backbone: Any,
    variables: torch.Tensor,
    cohort: Cohort,
    transform: ValueTransform,
    members: Members | None,
) -> SeqSetVAEFineTuner:
    """The module of these settings around a loaded backbone; `variables` as from `variables.variable_table`."""
    label, spec = cohort.split("train").label, spec_of(cohort)
    weight = weight_of_positives(settings.loss.class_weight, label)
    module = SeqSetVAEFineTuner(
        backbone,
        settings.head,
        Loss(settings.loss, weight, spec),
        settings.rates,
        settings.optimizer.weight_decay,
        variables,
        TrainedOn(
            variables=cohort.variables,
            label_name=cohort.label_name,
            max_sets=settings.data.max_sets,
            transform=transform,
            median_hours=median_hours(cohort.split("train")),
            profile=Profile.from_cohort(cohort),
        ),
        members,
        settings.tuning,
    )
    if spec.outputs is None:
        set_prior(module.head, float((label == 1).sum() / (label >= 0).sum()))
    return module
