"""Networks that weights of an average are chosen by: each trains on a part of the training stays, predicts the others.

They train as the network of the run does, in a folder that is gone afterwards. Nothing of the validation split is read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from seqsetvae.checkpoint.file import read_file
from seqsetvae.cli.finetune import Settings
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds
from seqsetvae.evaluation.crossvalidation import model_of
from seqsetvae.models.members import Members, read_members
from seqsetvae.settings.declare import changed
from seqsetvae.system.console import print_line, silent
from seqsetvae.system.errors import InputError, Terminated
from seqsetvae.system.files import CannotWriteError
from seqsetvae.system.resources import release
from seqsetvae.tasks.targets import spec_of, with_targets_of
from seqsetvae.training.checkpoints import rng_states, set_rng_states
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.table import OutOfFold

FOLDS = 3
MOST_STAYS = 20_000  # labelled training stays of which two thirds train each network, which bounds the time


def out_of_fold(settings: Settings, cohort: Cohort) -> list[OutOfFold]:
    """Parts of the training stays and what a network that has not seen them predicts; none if the stays are too few."""
    train, has_classes = cohort.split("train"), spec_of(cohort).outputs is None
    share = min(1.0, MOST_STAYS / max(1, int((train.label >= 0).sum())))
    out = []
    try:
        parts = replace(cohort, splits={"train": train}), FOLDS, settings.run.seed, share
        for fold in folds(*parts, has_classes=has_classes):
            with _isolated():
                out.append(_part(settings, with_targets_of(fold, cohort)))
    except CannotWriteError:  # a full disk must not decide how a model is averaged
        raise
    except InputError as error:
        print_line(f"The weights of the average are fixed, since no models can be compared out of fold: {error}")
        return []
    except (KeyboardInterrupt, Terminated) as stop:
        raise type(stop)("stopped before the training began; the same command begins again") from None
    return out


def _part(settings: Settings, fold: Cohort) -> OutOfFold:
    from seqsetvae.runs.crossvalidation_jobs import train_and_predict  # which imports this file, by way of fine-tuning

    ids = fold.split("train").stay_id, fold.split("valid").stay_id
    if settings.trees.average == "trees":
        return OutOfFold(*ids, None)
    with tempfile.TemporaryDirectory() as folder:
        alone = changed(settings, average="network", output_root_dir=Path(folder), loggers=None)
        columns, _ = train_and_predict(alone, fold)
    outputs = [values for name, values in columns.items() if model_of(name) == settings.architecture.architecture]
    return OutOfFold(ids[0], columns["stay_id"], np.stack(outputs, axis=1))


@contextmanager
def _isolated() -> Iterator[None]:
    """What is inside prints nothing and changes no random number of what follows."""
    states = rng_states()
    try:
        with silent():
            yield
    finally:
        set_rng_states(states)
        release()


def members_of_run(run: Path | None) -> Members | None:
    """The members of a run to resume, from its last checkpoint; None where there is none yet that can be read."""
    last = [] if run is None else [RunFolder(run).last, RunFolder(run).previous]
    for path in last:
        try:
            return read_members(read_file(path)["hyper_parameters"])
        except (InputError, OSError, KeyError, TypeError):
            continue
    return None
