"""Cross-validate: fine-tune on all folds but one, predict that one, and compare with baselines on the same folds."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqsetvae.errors import InputError, Terminated
from seqsetvae.evaluation.crossvalidation import Columns, lines, results
from seqsetvae.files import read_json, write_text
from seqsetvae.modes import finetune, pretrain
from seqsetvae.modes.crossvalidation_files import differing
from seqsetvae.modes.crossvalidation_jobs import Fold, is_sweep, predictions_of_fold, pretraining, ways
from seqsetvae.objectives.settings import ObjectiveSettings
from seqsetvae.settings.declare import argument, as_plain, changed
from seqsetvae.settings.groups import BaselineSettings, OutputSettings, PretrainingRate
from seqsetvae.settings.kinds import Several, integer, number, optional
from seqsetvae.settings.tuning import TUNINGS

if TYPE_CHECKING:  # it imports torch, and --help must not wait for it
    from seqsetvae.cohort import Cohort

HELP = "fine-tune and predict fold by fold, beside boosted trees and logistic regression"
NEEDS = ("data_dir",)
CONFIG, RESULT = "crossvalidation_settings.json", "crossvalidation.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What cross-validation reads: all of fine-tuning, and the folds."""

    folds: int = argument(
        integer(1),
        "crossvalidate: number of folds, stratified by label, the stays of a patient in one fold (default: 5); 1: the "
        "train and valid splits of the data",
        default=5,
    )
    seeds: int = argument(
        integer(1), "crossvalidate: trainings in each fold, with the seeds seed, seed + 1, ... (default: 1)", default=1
    )
    tunings: tuple[str, ...] | None = argument(
        Several(TUNINGS), "crossvalidate: ways of tuning to compare on the same folds and seeds; the default is tuning"
    )
    repeats: int = argument(
        integer(1), "crossvalidate: number of partitions into folds, each with seeds of its own (default: 1)", default=1
    )
    partition_seed: int = argument(
        integer(0), "crossvalidate: seed of the first partition into folds (default: 0)", default=0
    )
    train_fraction: float = argument(
        number(0, 1, above=True),
        "crossvalidate: share of the training patients of each fold whose stays are used, the models' labels "
        "(default: 1)",
        default=1.0,
    )
    pretrain_epochs: int = argument(
        integer(0),
        "crossvalidate: epochs of pretraining before fine-tuning, on all training stays of a fold whatever "
        "train_fraction (default: 0, none)",
        default=0,
    )
    pretrain_batch_size: int | None = argument(
        optional(integer(1)),
        "crossvalidate: stays per batch of pretraining, which has more stays than fine-tuning where train_fraction is "
        "small (default: batch_size)",
    )
    objective: ObjectiveSettings
    rate: PretrainingRate
    baselines: BaselineSettings
    output: OutputSettings
    finetuning: finetune.Settings


def problems(settings: Settings) -> list[str]:
    """The rules of fine-tuning one binary label in each way, and of pretraining where there is any."""
    finetuning = settings.finetuning
    task = finetuning.task.task
    if not finetuning.task.is_binary:
        return [f"task: received {task!r}; allowed: binary with --mode crossvalidate, whose folds go by one label"]
    if len(set(settings.tunings or ())) < len(settings.tunings or ()):
        return [f"tunings: received {' '.join(settings.tunings or ())}; name each way of tuning once"]
    if not settings.pretrain_epochs:
        return _finetuning_problems(settings, finetuning)
    if finetuning.from_random_weights or finetuning.pretrained.pretrained_ckpt is not None:
        return [
            f"pretrain_epochs: received {settings.pretrain_epochs} together with from_random_weights or "
            "pretrained_ckpt; leave these out, because each fold is then fine-tuned from a checkpoint of its own"
        ]
    of_fold = pretraining(settings, finetuning)
    return pretrain.problems(of_fold) + _finetuning_problems(settings, changed(finetuning, pretrained_ckpt=Path()))


def _finetuning_problems(settings: Settings, finetuning: finetune.Settings) -> list[str]:
    found = [line for way in ways(settings) for line in finetune.problems(changed(finetuning, tuning=way))]
    return list(dict.fromkeys(found))


def run(settings: Settings) -> dict[str, Any]:
    """Fine-tune and predict every fold; returns the table of results, which is also printed and written."""
    from seqsetvae.cohort.folds import in_no_fold
    from seqsetvae.cohort.open import check_data, open_data
    from seqsetvae.loading import require_both_classes
    from seqsetvae.trees import lightgbm

    if settings.baselines.baselines == "all":
        lightgbm()
    check_data(settings.finetuning.data, "train")
    cohort = open_data(settings.finetuning.data, settings.finetuning.run.output_root_dir)
    require_both_classes(cohort, "train")
    if settings.folds == 1:
        require_both_classes(cohort, "valid")
    folder, plain = _folder(settings, cohort)
    not_used = in_no_fold(cohort)
    for line in not_used:
        print(line)
    try:
        return _results(settings, folder, _all_folds(settings, cohort, folder, plain), not_used)
    except (KeyboardInterrupt, Terminated) as stop:
        again = f"the same command with --output {shlex.quote(str(folder))}"
        raise type(stop)(f"stopped; to go on: {again}") from None


def _all_folds(settings: Settings, cohort: Cohort, folder: Path, plain: dict[str, Any]) -> list[Columns]:
    """The predictions of each fold of each partition; those that have a file are read. `plain` is from `_folder`."""
    from seqsetvae.cohort.folds import folds

    columns: list[Columns] = []
    for repeat in range(settings.repeats):
        seed = settings.partition_seed + repeat
        labelled = folds(cohort, settings.folds, seed, settings.train_fraction)
        for number_of_fold, (fold, whole) in enumerate(zip(labelled, folds(cohort, settings.folds, seed), strict=True)):
            print(f"\nPartition {seed}, fold {number_of_fold + 1} of {settings.folds}", flush=True)
            place = f"partition{seed}-fold{number_of_fold}"
            columns.append(predictions_of_fold(settings, Fold(folder, place, fold, whole, repeat, plain)))
    return columns


def _results(settings: Settings, folder: Path, columns: list[Columns], not_used: list[str]) -> dict[str, Any]:
    """Compute, write and print the table of results."""
    first = ways(settings)[0] if len(ways(settings)) > 1 else None
    result = results(columns, first) | {"cautions": [*cautions(settings), *not_used]}
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    print("\n" + "\n".join(lines(result)) + f"\n{folder / RESULT}")
    return result


def cautions(settings: Settings) -> list[str]:
    """What a reader must know about the figures."""
    schedule = settings.finetuning.schedule
    found = []
    if schedule.keep == "best" or schedule.lr_schedule == "plateau":
        found.append(
            "The held-out fold chose the epoch or the learning rates, so the figures of the fine-tuned model are too "
            "good. --keep last --lr_schedule cosine leaves it out of all choices."
        )
    if settings.finetuning.pretrained.pretrained_ckpt is not None:
        found.append(
            "If the checkpoint was trained on stays of a held-out fold, above all with their labels, the figures are "
            "too good."
        )
    if settings.baselines.baselines == "all":
        found.append("The baselines were stopped or chosen on the held-out fold, in their favour.")
    return found


def _folder(settings: Settings, cohort: Cohort) -> tuple[Path, dict[str, Any]]:
    """The folder of the results, and the settings that all of its files depend on.

    Raises:
        InputError: it holds results of other settings or data.
    """
    from seqsetvae.files import file_sha256
    from seqsetvae.training.run_folder import RunFolder, find_checkpoint

    folder = settings.output.output
    if folder is None:
        folder = RunFolder.create(settings.finetuning.run.output_root_dir, "crossvalidate").path
    folder.mkdir(parents=True, exist_ok=True)
    # What the names of the files tell apart may be more in a later call: partitions, seeds and ways of tuning.
    others = {"output", "output_root_dir", "repeats", "loggers"}
    others |= {"tuning", "tunings", "seeds", "baselines"} if is_sweep(settings) else set()
    plain = {name: value for name, value in as_plain(settings).items() if name not in others}
    plain["content of data_dir"] = cohort.content_hash
    checkpoint = settings.finetuning.pretrained.pretrained_ckpt
    if checkpoint is not None:
        plain["content of pretrained_ckpt"] = file_sha256(find_checkpoint(checkpoint)[0])
    plain = json.loads(json.dumps(plain))
    _keep(plain, folder / CONFIG)
    return folder, plain


def _keep(plain: dict[str, Any], file: Path) -> None:
    """Write the settings to a file. Raises InputError that names what differs if it holds others."""
    try:
        recorded = read_json(file) if file.exists() else {}
    except InputError as error:
        raise InputError(f"{error}. Delete it: each fold has a record of its own settings.") from None
    differ = differing(recorded, plain, Settings, file) if recorded else {}
    if differ:
        listed = "".join(f"\n  {name}: {before!r} there, {plain[name]!r} now" for name, before in differ.items())
        raise InputError(
            f"output: {file.parent} holds folds of other settings ({file.name}). Pass another --output, or the "
            f"settings that it was made with:{listed}"
        )
    # A sweep does not compare the tuning, but files of a call that was none are of the tuning recorded there.
    write_text(file, json.dumps(recorded | plain, indent=2) + "\n")
