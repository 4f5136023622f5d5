"""Rows of `benchmarks.quality` that --mode crossvalidate cannot run: other models, on its folds and in its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import train_optimized
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds
from seqsetvae.cohort.open import open_data
from seqsetvae.evaluation.crossvalidation import Columns, as_csv
from seqsetvae.files import new_file
from seqsetvae.modes import MODES, finetune
from seqsetvae.modes.crossvalidation_jobs import train_and_predict
from seqsetvae.settings.command_line import resolve
from seqsetvae.settings.declare import changed

Predict = Callable[[finetune.Settings, Cohort], Columns]  # train on a fold's train split, predict its valid split


def by_fold(flags: Sequence[str], predict: Predict) -> int:
    """Predict each fold of a call of crossvalidate with these flags, one file for each. Returns the exit status."""
    settings = resolve(train_optimized.load_config(), ["--mode", "crossvalidate", *flags], MODES).settings
    of_run, folder = settings.finetuning, settings.output.output
    folder.mkdir(parents=True, exist_ok=True)
    cohort = open_data(of_run.data, of_run.run.output_root_dir)
    parts = folds(cohort, settings.folds, settings.partition_seed, settings.train_fraction)
    for number, fold in enumerate(parts):
        file = folder / f"partition{settings.partition_seed}-fold{number}.csv"
        print(f"{'Found' if file.exists() else 'Computing'} {file}", flush=True)
        if not file.exists():
            content = as_csv(predict(changed(of_run, output_root_dir=folder / "runs"), fold))
            with new_file(file) as stream:
                stream.write(content)
    return 0


def frozen_random_weights(settings: finetune.Settings, fold: Cohort) -> Columns:
    """The head alone on a backbone with random weights, which the commands refuse: the floor of pretraining."""
    return train_and_predict(changed(settings, unfreeze_after=None), fold)[0]
