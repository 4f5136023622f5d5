"""Cross-validate: fine-tune on all folds but one, predict that one, and compare with baselines on the same folds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqsetvae.cli.crossvalidate import Settings, combinations, is_sweep, varied
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds, unused_stays
from seqsetvae.cohort.open import check_data, open_data
from seqsetvae.evaluation.crossvalidation import PART, Columns, model_of, result_lines, results
from seqsetvae.models.trees import lightgbm
from seqsetvae.runs.crossvalidation_jobs import Fold, changed_settings, predictions_of_fold
from seqsetvae.runs.finetune import labels_of
from seqsetvae.settings.declare import as_plain
from seqsetvae.system.errors import WARNING, Finding, InputError, Terminated
from seqsetvae.system.files import file_sha256, read_json, write_text
from seqsetvae.tasks.spec import BINARY, Spec
from seqsetvae.tasks.targets import require_targets, spec_of
from seqsetvae.training.run_folder import RunFolder, find_checkpoint

CONFIG, RESULT = "crossvalidation_settings.json", "crossvalidation.json"


def run(settings: Settings) -> dict[str, Any]:
    """Fine-tune and predict every fold; returns the table of results, which is also printed and written."""
    if settings.baselines.baselines == "all":
        lightgbm()
    data, add_labels = labels_of(settings.finetuning)
    in_cohort = add_labels is None
    check_data(data, "train", labelled=in_cohort)
    cohort = open_data(data, settings.finetuning.run.output_root_dir, needs_labels=in_cohort)
    if add_labels is not None:
        cohort = add_labels(cohort)
    require_targets(cohort, "train", *["valid"] * (settings.folds == 1))
    folder, plain = _folder(settings, cohort)
    not_used = unused_stays(cohort)
    for line in not_used:
        print(line)
    try:
        return _results(settings, folder, _all_folds(settings, cohort, add_labels, folder, plain), not_used)
    except (KeyboardInterrupt, Terminated) as stop:
        again = f"the same command with --output {shlex.quote(str(folder))}"
        raise type(stop)(f"stopped; to resume: {again}") from None


def _all_folds(
    settings: Settings,
    cohort: Cohort,
    add_labels: Callable[[Cohort], Cohort] | None,
    folder: Path,
    plain: dict[str, Any],
) -> list[tuple[Spec, Columns]]:
    """The task and the predictions of each fold of each partition; those that have a file are read.

    What a task learns of its labels, such as classes or a mean, it learns of a fold's training stays. `plain` is from
    `_folder`.
    """
    predictions: list[tuple[Spec, Columns]] = []
    for repeat in range(settings.repeats):
        seed = settings.partition_seed + repeat
        parts, has_classes = (cohort, settings.folds, seed), add_labels is None
        labelled = folds(*parts, settings.train_fraction, has_classes=has_classes)
        both = zip(labelled, folds(*parts, has_classes=has_classes), strict=True)
        for number_of_fold, (fold, whole) in enumerate(both):
            print(f"\nPartition {seed}, fold {number_of_fold + 1} of {settings.folds}", flush=True)
            place, fold = f"partition{seed}-fold{number_of_fold}", fold if add_labels is None else add_labels(fold)
            columns = predictions_of_fold(settings, Fold(folder, place, fold, whole, repeat, plain))
            predictions.append((spec_of(fold), columns))
    return predictions


def _results(
    settings: Settings, folder: Path, of_folds: list[tuple[Spec, Columns]], not_used: list[str]
) -> dict[str, Any]:
    """Compute, write and print the table of results."""
    compared, specs = list(combinations(settings)), [spec for spec, _ in of_folds]
    columns, first = [each for _, each in of_folds], compared[0] if len(compared) > 1 else None
    if first is None and any(model_of(name).endswith(PART) for name in columns[0]):  # an average, beside its members
        first = settings.finetuning.architecture.architecture
    result = results(columns, first, specs) | {
        "findings": [Finding(WARNING, text).as_plain() for text in (*cautions(settings), *not_used)]
    }
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    print("\n" + "\n".join(result_lines(result)) + f"\n{folder / RESULT}")
    return result


def cautions(settings: Settings) -> list[str]:
    """What a reader must know about the metrics."""
    schedules = [each.schedule for each in combinations(settings).values()]
    texts = []
    if any(schedule.keep == "best" or schedule.lr_schedule == "plateau" for schedule in schedules):
        texts.append(
            "The held-out fold chose the epoch or the learning rates, so the metrics of the fine-tuned model are "
            "optimistic. --keep last --lr_schedule cosine leaves it out of all choices."
        )
    if len(schedules) > 1:
        texts.append(
            f"The held-out folds compare {len(schedules)} settings: choosing the best of them by this table makes its "
            "metrics optimistic."
        )
    if settings.finetuning.pretrained.pretrained_ckpt is not None:
        texts.append(
            "If the checkpoint was trained on stays of a held-out fold, above all with their labels, the metrics are "
            "optimistic."
        )
    if settings.baselines.baselines == "all" and settings.finetuning.task.task != BINARY:
        texts.append("The baselines were stopped or chosen on the held-out fold, so their metrics are optimistic.")
    return texts


def _folder(settings: Settings, cohort: Cohort) -> tuple[Path, dict[str, Any]]:
    """The folder of the results, and the settings that all of its files depend on.

    Raises:
        InputError: it holds results of other settings or data.
    """
    folder = settings.output.output
    if folder is None:
        folder = RunFolder.create(settings.finetuning.run.output_root_dir, "crossvalidate").path
    folder.mkdir(parents=True, exist_ok=True)
    # What the names of the files tell apart may be more in a later call: partitions, seeds and varied settings.
    others = {"output", "output_root_dir", "repeats", "loggers"}
    others |= {*varied(settings), "tunings", "sweep", "seeds", "baselines"} if is_sweep(settings) else set()
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
    differ = changed_settings(recorded, plain, Settings, file) if recorded else {}
    if differ:
        listed = "".join(f"\n  {name}: {before!r} there, {plain[name]!r} now" for name, before in differ.items())
        raise InputError(
            f"output: {file.parent} holds folds of other settings ({file.name}). Pass another --output, or the "
            f"settings that it was made with:{listed}"
        )
    # A sweep does not compare the tuning, but files of a call that was none are of the tuning recorded there.
    write_text(file, json.dumps(recorded | plain, indent=2) + "\n")
